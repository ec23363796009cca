"""Chats: their text by the tokenizer's template, and where the assistant's contents stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.record_fields import Record, Span
from haiftrace.errors import CorpusError

# Private-use characters: no template treats them specially, and trimming leaves them alone.
_MARK = "\ue0f0haiftrace{}\ue0f1"


def render(
    record: Record, tokenizer: Any, messages: Sequence[tuple[str, str]] | None = None
) -> str:
    """The text of a chat by the tokenizer's template; of `messages` where given.

    Raises:
        CorpusError: there is no template, or it refuses the chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            f"{record.place}: a chat record, but the checkpoint's tokenizer has no chat template "
            "to render it with.",
            "Use the tokenizer that training used, or render the chats to text beforehand.",
        )
    chat = [{"role": role, "content": text} for role, text in messages or record.messages or ()]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False))
    except Exception as error:  # whatever a template raises; it may quote the chat
        roles = ", ".join(plain(message["role"], 20) for message in chat[:12])
        raise CorpusError(
            f"{record.place}: the chat template refuses this conversation "
            f"({type(error).__name__}; roles: {roles}).",
            "Check the roles and their order against the template.",
        ) from error


def assistant_spans(record: Record, tokenizer: Any, text: str) -> tuple[Span, ...]:
    """Where the assistant's contents stand in the rendered `text`.

    Raises:
        CorpusError: they cannot be located for certain.
    """
    messages = record.messages or ()
    if not any(role == "assistant" and content for role, content in messages):
        return ()
    spans = _by_marks(record, tokenizer, text) or _in_order(messages, text)
    if spans is None:
        raise CorpusError(
            f"{record.place}: the assistant's messages cannot be located for certain in what the "
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
        marked = render(record, tokenizer, [(role, mark) for (role, _), mark in pairs])
    except CorpusError:  # a template that looks into the contents
        return None
    spans: list[Span] = []
    at = 0
    for i, (_, content) in enumerate(messages):
        before, mark, marked = marked.partition(marks[i])
        if not mark or not text.startswith(before, at):
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
