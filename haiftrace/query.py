"""The traced response: from prompt and response, given or generated, to tokens with labels."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.checkpoint import Checkpoint

_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")
PROMPT_FIELD = "{prompt}"


@dataclass(frozen=True)
class Asking:
    """How prompt and response become one string.

    Attributes:
        template: a text with `{prompt}` in it, put around the prompt.
        chat: put the prompt into the tokenizer's chat template, as a user's message.
        max_new_tokens: the most tokens that are generated.
        stop: texts at which generation ends.
        loss_on_all: trace the prompt's tokens too.
    """

    template: str | None = None
    chat: bool = False
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    loss_on_all: bool = False


@dataclass(frozen=True)
class Query:
    """Prompt and response as the model sees them.

    Attributes:
        prompt: as the model was given it, template included.
        response: the text after it.
        token_ids: prompt and response.
        labels: True where the token is traced.
        pieces: the text of each token.
        generated: True where the checkpoint produced the response.
        span: the part of the response that is traced, None for all of it.
        notes: what the user should know.
    """

    prompt: str
    response: str
    token_ids: list[int]
    labels: list[bool]
    pieces: list[str]
    generated: bool
    span: str | None = None
    notes: tuple[str, ...] = ()


def ask(checkpoint: Checkpoint, prompt: str, asking: Asking, span: str | None) -> Query:
    """Let the checkpoint answer greedily; the traced tokens are its own.

    Raises:
        UsageError: a prompt that leaves no room in the context, an answer without a token, or a
            span that is not in it.
    """
    import torch

    text = _asked(checkpoint, prompt, asking)
    prompt_ids, _ = _tokenise(checkpoint, text, special=not asking.chat)
    if not prompt_ids:
        raise UsageError("The prompt is empty.", "Give a prompt with at least one token.")
    room = asking.max_new_tokens
    if checkpoint.context is not None:
        room = min(room, checkpoint.context - len(prompt_ids))
    if room < 1:
        raise UsageError(
            f"The prompt has {len(prompt_ids)} tokens; the model's context of {checkpoint.context}"
            " leaves no room for an answer.",
            "Shorten the prompt, or raise --max-new-tokens above 0.",
        )
    ids = torch.tensor([prompt_ids], device=checkpoint.device)
    with torch.no_grad():
        output = checkpoint.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=_some_id(checkpoint),
            **({"stop_strings": list(asking.stop), "tokenizer": checkpoint.tokenizer} if asking.stop else {}),
        )
    new = _without_ending(checkpoint, output[0, len(prompt_ids) :].tolist())
    pieces = _pieces(checkpoint, prompt_ids, new)
    response = "".join(pieces[len(prompt_ids) :])
    if not response.strip():
        raise UsageError(
            "The model answered with nothing.",
            "Give the answer that leaked with --response, or another prompt or --template.",
        )
    spans, at = [], 0
    for piece in pieces[len(prompt_ids) :]:
        spans.append((at, at + len(piece)))
        at += len(piece)
    wanted = _span_of(response, span)
    traced = [start < wanted[1] and wanted[0] < end for start, end in spans]
    labels = [asking.loss_on_all] * len(prompt_ids) + traced
    return _query(text, response, prompt_ids + new, labels, pieces, True, span)


def given(
    checkpoint: Checkpoint, prompt: str, response: str, asking: Asking, span: str | None
) -> Query:
    """A leak as it was seen elsewhere: prompt and response tokenised as one string.

    Where neither side of the seam has white space and neither is CJK, one space goes between.

    Raises:
        UsageError: a response without a token, a span that is not in it, or both together longer
            than the context.
    """
    if not response.strip():
        raise UsageError("The response is empty.", "Give the text that leaked with --response.")
    text = _asked(checkpoint, prompt, asking)
    seam = " " if not asking.chat and _needs_space(text, response) else ""
    whole = text + seam + response
    ids, offsets = _tokenise(checkpoint, whole, special=not asking.chat)
    if checkpoint.context is not None and len(ids) > checkpoint.context:
        raise UsageError(
            f"Prompt and response have {len(ids)} tokens, the model's context {checkpoint.context}.",
            "Shorten the prompt, or trace a part of the response with --span.",
        )
    start, end = _span_of(response, span)
    first = len(text) + len(seam)
    labels = [
        (begin < first + end and first + start < stop)
        or (asking.loss_on_all and (begin, stop) != (0, 0))
        for begin, stop in offsets
    ]
    pieces = [whole[begin:stop] for begin, stop in offsets]
    return _query(text, response, ids, labels, pieces, False, span)


def _query(
    prompt: str,
    response: str,
    ids: list[int],
    labels: list[bool],
    pieces: list[str],
    generated: bool,
    span: str | None,
) -> Query:
    notes: list[str] = []
    if labels[0]:
        notes.append(
            "the first token of the response is traced without a loss of its own: nothing stands"
            " before it"
        )
        labels = [False, *labels[1:]]
    if not any(labels):
        raise UsageError(
            "The response has no token that the model predicts from something before it.",
            "Give a prompt, or a longer response.",
        )
    return Query(prompt, response, ids, labels, pieces, generated, span, tuple(notes))


def _asked(checkpoint: Checkpoint, prompt: str, asking: Asking) -> str:
    if asking.template is not None:
        if PROMPT_FIELD not in asking.template:
            raise UsageError(
                f"The template has no {PROMPT_FIELD} in it.",
                'Write it like --template "Question: {prompt} Answer:".',
            )
        prompt = asking.template.replace(PROMPT_FIELD, prompt)
    if not asking.chat:
        return prompt
    if not checkpoint.tokenizer.chat_template:
        raise UsageError(
            "The checkpoint's tokenizer has no chat template.", "Leave --chat out, or use --template."
        )
    message = [{"role": "user", "content": prompt}]
    text: str = checkpoint.tokenizer.apply_chat_template(
        message, add_generation_prompt=True, tokenize=False
    )
    return text


def _tokenise(
    checkpoint: Checkpoint, text: str, special: bool
) -> tuple[list[int], list[tuple[int, int]]]:
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
    return unicodedata.name(character, "").startswith(_CJK)


def _span_of(response: str, span: str | None) -> tuple[int, int]:
    if span is None:
        return 0, len(response)
    start = response.find(span) if span else -1
    if start < 0:
        raise UsageError(
            "The --span is not in the response.", "Copy it from the response exactly as it stands."
        )
    return start, start + len(span)


def _ending_ids(checkpoint: Checkpoint) -> set[int]:
    ends: Any = checkpoint.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {i for i in (*listed, checkpoint.tokenizer.eos_token_id) if i is not None}


def _some_id(checkpoint: Checkpoint) -> int:
    return min(_ending_ids(checkpoint), default=0)


def _without_ending(checkpoint: Checkpoint, ids: list[int]) -> list[int]:
    ends = _ending_ids(checkpoint)
    for count, token in enumerate(ids):
        if token in ends:
            return ids[:count]
    return ids


def _pieces(checkpoint: Checkpoint, prompt_ids: list[int], new: list[int]) -> list[str]:
    """Text of every token, so that the pieces of a text add up to it.

    A character that several tokens spell stands with the last of them.
    """
    decode = checkpoint.tokenizer.decode
    pieces = [decode([token]) for token in prompt_ids]
    before = decode(prompt_ids)
    done = before
    for count in range(1, len(new) + 1):
        text = decode(prompt_ids + new[:count])
        unfinished = text.endswith("\ufffd") and count < len(new)
        pieces.append("" if unfinished else text[len(done) :])
        done = done if unfinished else text
    return pieces
