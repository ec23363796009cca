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
from haiftrace.corpus.chats import render, response_spans
from haiftrace.corpus.record_fields import Span
from haiftrace.corpus.token_offsets import append_eos_token, decode_tokens, tokenise
from haiftrace.errors import CorpusError


@dataclass(frozen=True)
class Window:
    """Tokens of one record that fit the context; T of them.

    Attributes:
        record_id, path, line: the record and where it stands.
        text: the complete record as the model saw it in training (a chat rendered by its template).
        start: position in the record of the window's first token.
        window: index among the record's windows, from 0.
        windows: how many windows the record has; those without a label do not count.
        token_ids: [T] vocabulary ids.
        offsets: [T] character spans in `text` as the tokenizer gives them; (0, 0) for a special
            token that covers no text. Tokens of one character have its span.
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
        """SHA-256 (hex) of the text, the same for all windows of a record."""
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
    it, and the special tokens after it when it ends the text. Each label counts in exactly one
    window: the earliest that holds it, which gives it the most context.

    A record of token ids is traced as it stands: nothing is added, not even by `append_eos`.

    Args:
        record: what to tokenise.
        tokenizer: a Hugging Face tokenizer.
        context: the most tokens a window may have, at least 2; the stride is half of it.
        loss_on: as the record was read; it matters for chats, whose spans are located here.
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
    if record.token_ids is not None:
        return _of_tokens(record, tokenizer, context, loss_on)
    if record.messages is not None:
        text = render(record, tokenizer)
        if loss_on == "response":
            spans = response_spans(record, tokenizer, text)
    elif loss_on == "response" and spans is None:
        raise CorpusError(
            f"{record.place}: a record of plain text has no response to put the loss on.",
            "Use --loss-on all, or records with prompt and response, or messages.",
        )
    ids, offsets = tokenise(record, text, tokenizer)
    if append_eos:
        append_eos_token(ids, offsets, tokenizer)
    return _windows(record, text, ids, offsets, _labels(offsets, spans, len(text)), context)


def _of_tokens(record: Record, tokenizer: Any, context: int, loss_on: LossOn) -> list[Window]:
    """Windows of a record that is given as token ids: these, and no token more."""
    ids = list(record.token_ids or ())
    labels = [True] * len(ids)
    if loss_on == "response":
        labels = list(record.token_labels or [False] * len(ids))
    labels[:1] = [False] * len(labels[:1])
    if not any(labels):
        return []
    text, offsets = decode_tokens(ids, tokenizer)
    return _windows(record, text, ids, offsets, labels, context)


def _windows(
    record: Record,
    text: str,
    ids: list[int],
    offsets: list[Span],
    labels: list[bool],
    context: int,
) -> list[Window]:
    """The windows of a tokenised record.

    Args:
        text: of the whole record; ids, offsets, labels: [T] of it.
    """
    labels_by_start = _place_labels(labels, context)
    return [
        Window(
            record_id=record.id,
            path=record.path,
            line=record.line,
            text=text,
            start=start,
            window=index,
            windows=len(labels_by_start),
            token_ids=ids[start : start + context],
            offsets=offsets[start : start + context],
            labels=window_labels,
            group=record.group,
        )
        for index, (start, window_labels) in enumerate(labels_by_start)
    ]


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
    windows = []
    new = 0  # first token that no earlier window holds
    for start in range(0, len(labels), stride):
        end = min(start + context, len(labels))
        window_labels = [start + i >= new and label for i, label in enumerate(labels[start:end])]
        if any(window_labels):
            windows.append((start, window_labels))
        new = end
        if end == len(labels):
            break
    return windows
