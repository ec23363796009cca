"""From a record to the token windows that fit the model's context.

Works with any Hugging Face tokenizer object; nothing of it is imported here.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from haiftrace.corpus import LossOn, Record
from haiftrace.corpus.files import plain
from haiftrace.errors import CorpusError

Span = tuple[int, int]

# Private-use characters: no template treats them specially, and trimming leaves them alone.
_MARK = "\ue0f0haiftrace{}\ue0f1"
# A character has at most four bytes, so no more byte tokens than that spell one.
_MOST_TOKENS_A_CHARACTER = 8


@dataclass(frozen=True)
class Window:
    """Tokens of one record that fit the context; T of them.

    Attributes:
        record_id, path, line: the record and where it stands.
        text: the whole record as the model saw it in training (a chat rendered by its template).
        start: position in the record of the window's first token.
        window: index among the record's windows, from 0.
        windows: how many windows the record has; those without a label do not count.
        token_ids: [T] vocabulary ids.
        offsets: [T] character spans in `text` as the tokenizer gives them; (0, 0) for a special
            token that covers no text. Tokens that share a character share its span.
        labels: [T] True where the token is a label in this window. Never for the first.
        group: the value of the record's group field.
    """

    record_id: str
    path: str
    line: int | None
    text: str
    start: int
    window: int
    windows: int
    token_ids: list[int]
    offsets: list[Span]
    labels: list[bool]
    group: str | None = None

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the whole record's text."""
        return hashlib.sha256(self.text.encode(errors="surrogatepass")).hexdigest()


def windows_of(
    record: Record,
    tokenizer: Any,
    context: int,
    loss_on: LossOn = "all",
    append_eos: bool = False,
) -> list[Window]:
    """Tokenise a record and split it into windows.

    The tokens are exactly those that `tokenizer(text)` gives, its own special tokens included; for
    a chat those of the text that its template renders, with none added. Every token but the
    record's first is a label; where the loss is on the response, those that cover a character of
    it, and the special tokens after it when it ends the text. Each label is one in exactly one
    window: the earliest that holds it, which gives it the most context.

    Args:
        record: what to tokenise.
        tokenizer: a Hugging Face tokenizer.
        context: the most tokens a window may have, at least 2; the stride is half of it.
        loss_on: as the record was read; it matters for chats, whose spans are found here.
        append_eos: add the end-of-text token where the record does not end with it yet.

    Returns:
        The windows that have a label, in order; none for a record without any label (one token,
        or an empty response), which the caller counts.

    Raises:
        CorpusError: a context below 2, a tokenizer without what is needed (chat template,
            end-of-text token), a chat that the template refuses, or text that cannot be located.
    """
    if context < 2:
        raise CorpusError(
            f"A context of {context} tokens holds no label, since a label needs one before it.",
            "Use a context of at least 2 tokens.",
        )
    text, spans = record.text, record.loss_spans
    if record.messages is not None:
        text = _render(record, tokenizer)
        if loss_on == "response":
            spans = _assistant_spans(record, tokenizer, text)
    elif loss_on == "response" and spans is None:
        raise CorpusError(
            f"{_place(record)}: a record of plain text has no response to put the loss on.",
            "Use --loss-on all, or records with prompt and response, or messages.",
        )
    ids, offsets = _tokenise(record, text, tokenizer)
    if append_eos:
        _append_eos(ids, offsets, tokenizer)
    labels = _labels(offsets, spans, len(text))
    placed = _place_labels(labels, context)
    return [
        Window(
            record_id=record.id,
            path=record.path,
            line=record.line,
            text=text,
            start=start,
            window=index,
            windows=len(placed),
            token_ids=ids[start : start + context],
            offsets=offsets[start : start + context],
            labels=here,
            group=record.group,
        )
        for index, (start, here) in enumerate(placed)
    ]


def _place(record: Record) -> str:
    return f"{plain(record.path, 300)}:{record.line}"


def _labels(offsets: list[Span], spans: Sequence[Span] | None, length: int) -> list[bool]:
    if spans is None:
        labels = [True] * len(offsets)
    else:
        ends = [end for _, end in spans]
        labels = []
        for start, end in offsets:
            first = bisect_right(ends, start)  # the first span that ends after the token's start
            labels.append(first < len(spans) and spans[first][0] < end)
        # Training on a response also teaches where it ends.
        if spans and spans[-1][1] == length:
            for i in range(len(labels) - 1, 0, -1):
                if offsets[i] != (0, 0):
                    break
                labels[i] = any(labels[:i])
    labels[:1] = [False] * len(labels[:1])
    return labels


def _place_labels(labels: list[bool], context: int) -> list[tuple[int, list[bool]]]:
    """(start, labels in the window) of each window that has a label."""
    stride = context // 2
    placed = []
    new = 0  # first token that no earlier window holds
    for start in range(0, len(labels), stride):
        end = min(start + context, len(labels))
        here = [start + i >= new and label for i, label in enumerate(labels[start:end])]
        if any(here):
            placed.append((start, here))
        new = end
        if end == len(labels):
            break
    return placed


def _tokenise(record: Record, text: str, tokenizer: Any) -> tuple[list[int], list[Span]]:
    settings = {
        "add_special_tokens": record.messages is None,  # a template writes its own
        "truncation": False,
        "padding": False,
        "verbose": False,  # a record longer than the context is no reason to warn
    }
    if not getattr(tokenizer, "is_fast", False):
        ids = list(tokenizer(text, **settings)["input_ids"])
        return ids, _align(record, text, ids, tokenizer)
    encoded = tokenizer(text, return_offsets_mapping=True, **settings)
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), offsets


def _align(record: Record, text: str, ids: list[int], tokenizer: Any) -> list[Span]:
    """Offsets for a tokenizer that gives none: decode token by token and follow along the text.

    White space between text and decoded piece may differ; anything else that differs is an error.
    """
    special = set(tokenizer.all_special_ids)
    offsets: list[Span] = []
    at = 0
    while len(offsets) < len(ids):
        first = len(offsets)
        # Several tokens may spell one character, which only all of them decode to.
        for size in range(1, min(_MOST_TOKENS_A_CHARACTER, len(ids) - first) + 1):
            span = _find(text, at, tokenizer.decode(ids[first : first + size]))
            if span is not None:
                offsets += [span] * size
                at = max(at, span[1])
                break
            if size == 1 and ids[first] in special:
                offsets.append((0, 0))
                break
        else:
            raise CorpusError(
                f"{_place(record)}: the tokenizer gives no character offsets, and token "
                f"{first + 1} does not decode to what stands in the text.",
                "Use the checkpoint's fast tokenizer (tokenizer.json).",
            )
    return offsets


def _find(text: str, at: int, piece: str) -> Span | None:
    if piece and text.startswith(piece, at):
        return at, at + len(piece)
    bare = piece.strip()
    if not bare and text[at : at + 1].isspace():  # white space that decoding drops
        return at, at + 1
    while at < len(text) and text[at].isspace():
        at += 1
    if bare and text.startswith(bare, at):
        return at, at + len(bare)
    return None


def _append_eos(ids: list[int], offsets: list[Span], tokenizer: Any) -> None:
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        raise CorpusError(
            "The tokenizer has no end-of-text token to append.", "Leave --append-eos out."
        )
    if ids[-1:] != [eos]:
        ids.append(int(eos))
        offsets.append((0, 0))


def _render(
    record: Record, tokenizer: Any, messages: Sequence[tuple[str, str]] | None = None
) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            f"{_place(record)}: a chat record, but the checkpoint's tokenizer has no chat template "
            "to render it with.",
            "Use the tokenizer that training used, or render the chats to text beforehand.",
        )
    chat = [{"role": role, "content": text} for role, text in messages or record.messages or ()]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # whatever a template raises; it may quote the chat
        roles = ", ".join(plain(message["role"], 20) for message in chat[:12])
        raise CorpusError(
            f"{_place(record)}: the chat template refuses this conversation "
            f"({type(error).__name__}; roles: {roles}).",
            "Check the roles and their order against the template.",
        ) from error


def _assistant_spans(record: Record, tokenizer: Any, text: str) -> tuple[Span, ...]:
    """Where the assistant's contents stand in the rendered `text`."""
    messages = record.messages or ()
    if not any(role == "assistant" and content for role, content in messages):
        return ()
    spans = _by_marks(record, tokenizer, text) or _in_order(messages, text)
    if spans is None:
        raise CorpusError(
            f"{_place(record)}: the assistant's messages cannot be located for certain in what the "
            "chat template renders.",
            "Use --loss-on all, or give this record as prompt and response.",
        )
    pairs = zip(messages, spans, strict=True)
    return tuple(span for (role, _), span in pairs if role == "assistant")


def _by_marks(record: Record, tokenizer: Any, text: str) -> list[Span] | None:
    """Render unique marks in place of the contents: what stands around them is the template's.

    The pieces between the marks, with the contents between them, must give `text` exactly.
    """
    messages = record.messages or ()
    marks = [_MARK.format(i) for i in range(len(messages))]
    try:
        pairs = zip(messages, marks, strict=True)
        marked = _render(record, tokenizer, [(role, mark) for (role, _), mark in pairs])
    except CorpusError:  # a template that looks into the contents
        return None
    spans: list[Span] = []
    at = 0
    for i, (_, content) in enumerate(messages):
        before, found, marked = marked.partition(marks[i])
        if not found or not text.startswith(before, at):
            return None
        at += len(before)
        after = marked.partition(marks[i + 1])[0] if i + 1 < len(marks) else marked
        for shape in (content, content.strip(), content.lstrip(), content.rstrip()):
            if text.startswith(shape + after, at):
                spans.append((at, at + len(shape)))
                at += len(shape)
                break
        else:
            return None
    return spans if text[at:] == marked else None


def _in_order(messages: Sequence[tuple[str, str]], text: str) -> list[Span] | None:
    """Each content in its order; None unless every assistant's content can be only there."""
    spans: list[Span] = []
    at = 0
    for role, content in messages:
        bare = content.strip()
        start = text.find(bare, at)
        if start < 0 or (role == "assistant" and (not bare or text.count(bare) != 1)):
            return None
        spans.append((start, start + len(bare)))
        at = start + len(bare)
    return spans
