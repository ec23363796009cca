"""Chats: their text by the tokenizer's template, and where in it stands what carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.layouts import Messages
from haiftrace.corpus.record_fields import Record, Span
from haiftrace.errors import CorpusError

# Private-use characters: no template treats them specially, and trimming leaves them alone.
_MARK = "\ue0f0haiftrace{}\ue0f1"
_END = _MARK.format("end")


def render(
    record: Record,
    tokenizer: Any,
    messages: Sequence[tuple[str, str]] | None = None,
    ask: bool = False,
) -> str:
    """The text of a chat by the tokenizer's template; of `messages` where given.

    Args:
        messages: others than the record's, or the first of them.
        ask: begin the assistant's next message after them, as the template does for generation.

    Raises:
        CorpusError: there is no template, or it refuses the chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            f"{record.place}: a chat record, but the checkpoint's tokenizer has no chat template "
            "to render it with.",
            "Use the tokenizer that training used, or render the chats to text beforehand.",
        )
    chat: list[dict[str, str]] = []
    for i, (role, text) in enumerate(record.messages or () if messages is None else messages):
        chat.append({"role": role, "content": text})
        if record.thoughts and (thought := record.thoughts[i]):
            # Templates know it by either name.
            chat[-1] |= {"reasoning_content": thought, "thinking": thought}
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # whatever a template raises; it may quote the chat
        roles = ", ".join(plain(message["role"], 20) for message in chat[:12])
        raise CorpusError(
            f"{record.place}: the chat template refuses this conversation "
            f"({type(error).__name__}; roles: {roles}).",
            "Check the roles and their order against the template.",
        ) from error
    return str(text)


def response_spans(record: Record, tokenizer: Any, text: str) -> tuple[Span, ...]:
    """Where in the rendered `text` stands what carries loss when it is on the response.

    That is what the assistant says; of a chat whose prompt and completion are told apart, all that
    the template writes after the prompt, as TRL's trainer has it.

    Raises:
        CorpusError: it cannot be located for certain.
    """
    messages = record.messages or ()
    spans: tuple[Span, ...] | None
    if record.prompt_turns is not None:
        start = _completion_start(record, tokenizer, text, record.prompt_turns)
        spans = None if start is None else ((start, len(text)),)
    elif any(role == "assistant" and content for role, content in messages):
        spans = _assistant_spans(record, tokenizer, text)
    else:
        return ()
    if spans is None:
        raise CorpusError(
            f"{record.place}: what the assistant says cannot be located for certain in what the "
            "chat template renders.",
            "Render the chats to text with the template that training used, as prompt and "
            "response, and index that; or use --loss-on all if training did.",
        )
    return spans


def _completion_start(record: Record, tokenizer: Any, text: str, prompt_turns: int) -> int | None:
    """Where the completion begins: after the prompt and the opening of the assistant's message."""
    messages = record.messages or ()
    if prompt_turns == len(messages):
        return len(text)
    for ask in (messages[prompt_turns][0] == "assistant", False):
        try:
            prompt = render(record, tokenizer, messages[:prompt_turns], ask) if prompt_turns else ""
        except CorpusError:  # a template that wants more than the prompt
            continue
        if text.startswith(prompt):
            return len(prompt)
    return None


def _assistant_spans(record: Record, tokenizer: Any, text: str) -> tuple[Span, ...] | None:
    messages = record.messages or ()
    if record.thoughts:
        spans = _by_prefixes(record, tokenizer, text)
    else:
        every = _by_marks(record, tokenizer, text)
        spans = None if every is None else _of_assistant(messages, every)
        spans = spans or _by_prefixes(record, tokenizer, text)
    if spans is None:
        every = _in_order(messages, text)
        spans = None if every is None else _of_assistant(messages, every)
    return spans


def _of_assistant(messages: Messages, spans: Sequence[Span]) -> tuple[Span, ...]:
    pairs = zip(messages, spans, strict=True)
    return tuple(span for (role, _), span in pairs if role == "assistant")


def _by_prefixes(record: Record, tokenizer: Any, text: str) -> tuple[Span, ...] | None:
    """Render the conversation up to each of the assistant's messages, and up to the next message.

    For templates that change contents: Qwen3's and its kin leave the thoughts of earlier turns out
    and write an empty thought into the last. What is rendered up to a message must be how `text`
    begins, and what stands between must be that message's content, or the end of it.
    """
    messages = record.messages or ()
    spans: list[Span] = []
    for i, (role, content) in enumerate(messages):
        if role != "assistant":
            continue
        try:
            start = _opening(record, tokenizer, text, i)
            end = _closing(record, tokenizer, text, i)
        except CorpusError:  # a template that wants more than a beginning
            return None
        if start is None or end is None or end < start or (spans and start < spans[-1][1]):
            return None
        said, kept = ("".join(each.split()) for each in (content, text[start:end]))
        if not (said.endswith(kept) or kept.endswith(said)):
            return None
        spans.append((start, end))
    return tuple(spans)


def _opening(record: Record, tokenizer: Any, text: str, i: int) -> int | None:
    """Where the content of message i begins in `text`, by what is rendered before it."""
    messages = record.messages or ()
    before = messages[:i]
    asked = render(record, tokenizer, before, ask=True) if before else ""
    thinks = bool(record.thoughts and record.thoughts[i])
    if not thinks:
        header, mark, _ = render(record, tokenizer, _with(before, "assistant")).partition(_END)
        if mark and text.startswith(header):
            return len(header)
    begun = render(record, tokenizer, before) if before else ""
    # What the assistant is asked with is its message's header; with none, where a thought begins
    # after it cannot be told.
    return len(asked) if len(asked) > len(begun) and text.startswith(asked) else None


def _closing(record: Record, tokenizer: Any, text: str, i: int) -> int | None:
    """Where the content of message i ends in `text`, by what is rendered after it."""
    messages = record.messages or ()
    marked = _with(messages[:i], "assistant")
    if i + 1 == len(messages):
        tail = render(record, tokenizer, marked).partition(_END)[2]
        return len(text) - len(tail) if text.endswith(tail) else None
    following = messages[i + 1][0]
    until = render(record, tokenizer, _with(messages[: i + 1], following)).rpartition(_END)[0]
    both = render(record, tokenizer, (*marked, (following, _END)))
    _, mark, between = both.rpartition(_END)[0].partition(_END)
    if not until or not mark or not text.startswith(until) or not until.endswith(between):
        return None
    return len(until) - len(between)


def _with(messages: Messages, role: str) -> Messages:
    return (*messages, (role, _END))


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
