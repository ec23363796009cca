"""The traced response: from prompt and response, given or generated, to tokens with labels."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from haiftrace.errors import NoAnswerError, UsageError
from haiftrace.query.generation import first_stop, greedy, sampled, token_spans, token_texts
from haiftrace.query.prompt_text import (
    TWO_BEGINNINGS,
    PromptSettings,
    begins_twice,
    prompt_text,
)

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH")
_CJK_PUNCTUATION = range(0x3000, 0x3040)
NO_SPACE = "prompt and response are joined as they were given, with no space between"


@dataclass(frozen=True)
class Query:
    """Prompt and response as the model sees them.

    Attributes:
        prompt: as the model was given it, template included.
        response: the text after it.
        token_ids: prompt and response.
        labels: True where the token is traced.
        pieces: the text of each token.
        text: prompt and response as one string.
        offsets: characters of `text` that each token covers.
        generated: True where the checkpoint produced the response.
        span: the characters of the response that are traced, None for all of it.
        notes: what the user should know.
    """

    prompt: str
    response: str
    token_ids: list[int]
    labels: list[bool]
    pieces: list[str]
    text: str
    offsets: list[tuple[int, int]]
    generated: bool
    span: str | None = None
    notes: tuple[str, ...] = ()


def generated_query(
    checkpoint: Checkpoint, prompt: str, prompting: PromptSettings, span: str | None
) -> Query:
    """Let the checkpoint answer greedily; the traced tokens are its own.

    Raises:
        NoAnswerError: the model answered with nothing.
        UsageError: a prompt that leaves no room in the context, or a span that is not in the
            answer.
    """
    asked = _asked(checkpoint, prompt, prompting)
    new = greedy(checkpoint, asked.token_ids, asked.room, prompting.stop)
    query = _answered(checkpoint, asked, new, prompting, span)
    if query is None:
        raise NoAnswerError(
            "The model answered with nothing.",
            "Give the answer that leaked with --response, or another prompt or --template.",
        )
    return query


def sampled_queries(
    checkpoint: Checkpoint, prompt: str, prompting: PromptSettings
) -> list[Query | None]:
    """The answers that `prompting.sampling` draws; None for one that says nothing.

    Raises:
        UsageError: as `generated_query`.
    """
    if prompting.sampling is None:
        return []
    asked = _asked(checkpoint, prompt, prompting)
    answers = sampled(checkpoint, asked.token_ids, asked.room, prompting.stop, prompting.sampling)
    return [_answered(checkpoint, asked, new, prompting, None) for new in answers]


@dataclass(frozen=True)
class _Asked:
    """A prompt as the model is given it.

    Attributes:
        room: the most tokens that an answer may have.
    """

    text: str
    token_ids: list[int]
    offsets: list[tuple[int, int]]
    room: int


def _asked(checkpoint: Checkpoint, prompt: str, prompting: PromptSettings) -> _Asked:
    text = prompt_text(checkpoint, prompt, prompting)
    prompt_ids, prompt_offsets = _tokenise(checkpoint, text, special=prompting.adds_special_tokens)
    if not prompt_ids:
        raise UsageError("The prompt is empty.", "Give a prompt with at least one token.")
    room = prompting.max_new_tokens
    if checkpoint.context is not None:
        room = min(room, checkpoint.context - len(prompt_ids))
    if room < 1:
        raise UsageError(
            f"The prompt has {len(prompt_ids)} tokens; the model's context of {checkpoint.context}"
            " leaves no room for an answer.",
            "Shorten the prompt.",
        )
    return _Asked(text, prompt_ids, prompt_offsets, room)


def _answered(
    checkpoint: Checkpoint,
    asked: _Asked,
    new: list[int],
    prompting: PromptSettings,
    span: str | None,
) -> Query | None:
    """A generated answer as a query; None where it says nothing."""
    text, prompt_ids, prompt_offsets = asked.text, asked.token_ids, asked.offsets
    new_pieces = token_texts(checkpoint, prompt_ids, new)
    answer = "".join(new_pieces)
    response = answer[: first_stop(answer, prompting.stop)]
    if not response.strip():
        return None
    spans = [s for s in token_spans(new_pieces) if s[0] < len(response)]
    start, end = _span_of(response, span)
    pieces = [checkpoint.tokenizer.decode([token]) for token in prompt_ids]
    return _query(
        Query(
            prompt=text,
            response=response,
            token_ids=prompt_ids + new[: len(spans)],
            labels=[False] * len(prompt_ids) + [a < end and start < b for a, b in spans],
            pieces=pieces + new_pieces[: len(spans)],
            text=text + response,
            offsets=prompt_offsets + [(len(text) + a, len(text) + b) for a, b in spans],
            generated=True,
            span=span,
            notes=_beginning_notes(checkpoint, prompt_ids),
        ),
        [prompting.loss_on_all] * len(prompt_ids),
    )


def given_query(
    checkpoint: Checkpoint, prompt: str, response: str, prompting: PromptSettings, span: str | None
) -> Query:
    """A leak as it was seen elsewhere: prompt and response tokenised as one string.

    Where neither side of the seam has white space and neither is CJK, one space goes between.

    Raises:
        UsageError: a response without a token, a span that is not in it, or both together longer
            than the context.
    """
    if not response.strip():
        raise UsageError("The response is empty.", "Give the text that leaked with --response.")
    text = prompt_text(checkpoint, prompt, prompting)
    wanting = prompting.adds_special_tokens and _needs_space(text, response)
    seam = " " if wanting and not prompting.as_it_stands else ""
    joined = text + seam + response
    ids, offsets = _tokenise(checkpoint, joined, special=prompting.adds_special_tokens)
    if checkpoint.context is not None and len(ids) > checkpoint.context:
        raise UsageError(
            f"Prompt and response have {len(ids)} tokens, the model's context has"
            f" {checkpoint.context}.",
            "Shorten the prompt, or give only the part of the response that leaked.",
        )
    start, end = _span_of(response, span)
    first = len(text) + len(seam)
    return _query(
        Query(
            prompt=text,
            response=response,
            token_ids=ids,
            labels=[a < first + end and first + start < b for a, b in offsets],
            pieces=[joined[a:b] for a, b in offsets],
            text=joined,
            offsets=offsets,
            generated=False,
            span=span,
            notes=(
                *((NO_SPACE,) if wanting and not seam else ()),
                *_beginning_notes(checkpoint, ids),
            ),
        ),
        [prompting.loss_on_all and a < b <= first for a, b in offsets],
    )


def _beginning_notes(checkpoint: Checkpoint, ids: list[int]) -> tuple[str, ...]:
    return (TWO_BEGINNINGS,) if begins_twice(checkpoint, ids) else ()


def _query(query: Query, prompt_labels: list[bool]) -> Query:
    """The query with the prompt's traced tokens, and without a label that nothing precedes."""
    notes = query.notes
    if any(query.labels[:1]):
        notes += (
            "the first token of the response is not traced: nothing stands before it that the model"
            " could predict it from",
        )
    labels = [a or b for a, b in zip_longest(query.labels, prompt_labels, fillvalue=False)]
    labels[:1] = [False]
    if not any(query.labels) or not any(labels):
        raise UsageError(
            "The response has no token that the model predicts from something before it.",
            "Give a prompt, or a longer response.",
        )
    return replace(query, labels=labels, notes=notes)


def _tokenise(
    checkpoint: Checkpoint, text: str, special: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "The prompt or response is not valid UTF-8.", "Convert it to UTF-8."
        ) from None
    encoded = checkpoint.tokenizer(
        text, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )
    ids, offsets = list(encoded["input_ids"]), [(a, b) for a, b in encoded["offset_mapping"]]
    # What a tokenizer puts behind the text would end it before the answer.
    while special and ids and offsets[-1] == (0, 0) and len(ids) > 1:
        ids.pop()
        offsets.pop()
    beyond = [i for i in ids if i >= checkpoint.vocabulary]
    if beyond:
        raise UsageError(
            "The prompt or response holds a special token that the model's embedding has no row"
            " for.",
            "Remove that marker.",
        )
    return ids, offsets


def _needs_space(before: str, after: str) -> bool:
    if not before or before[-1].isspace() or after[0].isspace():
        return False
    return not (_is_cjk(before[-1]) or _is_cjk(after[0]))


def _is_cjk(character: str) -> bool:
    in_words = unicodedata.name(character, "").startswith(_CJK)
    return in_words or ord(character) in _CJK_PUNCTUATION


def _span_of(response: str, span: str | None) -> tuple[int, int]:
    if span is None:
        return 0, len(response)
    start = response.find(span) if span else -1
    if start < 0:
        raise UsageError(
            "The --span is not in the response.", "Copy it from the response exactly as it stands."
        )
    return start, start + len(span)
