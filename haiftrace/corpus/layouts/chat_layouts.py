"""Chats: a list of messages, in OpenAI's names for their fields or in ShareGPT's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import field_value
from haiftrace.corpus.layouts.field_layout import FieldLayout
from haiftrace.corpus.layouts.layout import BadRowError, Content, Fields, string, type_name

# ShareGPT's names of who speaks, and what chat templates call them.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "observation": "tool",
}
_THOUGHTS = ("reasoning_content", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
# What else may be a part: a type of this list may be named, any other might be private.
_OTHER_PARTS = (
    *("image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video"),
    *("video_url", "file", "document", "tool_use", "tool_call", "tool_result", "refusal"),
    *("thinking", "redacted_thinking"),
)
_RENDERED = "Render such chats to text with the template that training used, and index that."


@dataclass(frozen=True)
class MessagesLayout(FieldLayout):
    """`{"messages": [{"role": …, "content": …}, …]}`.

    A content may be a list of parts, `{"type": "text", "text": …}`, which are joined; a part of
    another type makes a row that is no record, since a language model of text never read it.
    """

    field: str = "messages"
    name = "messages"

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"messages (field '{plain(self.field)}', by the chat template)"

    def read(self, fields: Fields) -> Content:
        """The chat."""
        return chat_content(((self.field, field_value(fields, self.field)),))


@dataclass(frozen=True)
class ShareGptLayout(MessagesLayout):
    """`{"conversations": [{"from": "human", "value": …}, …]}`, with a `system` text or without."""

    field: str = "conversations"
    name = "sharegpt"

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"sharegpt (field '{plain(self.field)}', by the chat template)"

    def columns(self) -> set[str]:
        """The column that holds the field, and that of the system's text."""
        return super().columns() | {"system"}

    def read(self, fields: Fields) -> Content:
        """The chat, which the system's text opens where there is one."""
        lists = [(self.field, field_value(fields, self.field))]
        system = string(fields.get("system") or "", "system")
        if system:
            lists.insert(0, ("system", [{"role": "system", "content": system}]))
        return chat_content(lists)


def chat_content(lists: Iterable[tuple[str, Any]], prompt_turns: int | None = None) -> Content:
    """The chat that lists of messages make one after the other.

    Args:
        lists: the name of each list's field, and the list.
        prompt_turns: as `Content` has it.

    Raises:
        BadRowError: something in them is no message of a text.
    """
    messages: list[tuple[str, str]] = []
    thoughts: list[str | None] = []
    for name, value in lists:
        if not isinstance(value, list):
            raise BadRowError(f"the field '{plain(name)}' is {type_name(value)}, not a list")
        of_field = "" if name in ("messages", "conversations") else f" of '{plain(name)}'"
        for number, message in enumerate(value, 1):
            role, content, thought = _message(message, f"message {number}{of_field}")
            messages.append((role, content))
            thoughts.append(thought)
    contents = [content for _, content in messages]
    return Content(
        "\n".join(contents) if any(contents) else "",
        messages=tuple(messages),
        thoughts=tuple(thoughts) if any(thoughts) else (),
        prompt_turns=prompt_turns,
    )


def _message(message: Any, what: str) -> tuple[str, str, str | None]:
    """Role, content, and what was thought before it."""
    if not isinstance(message, dict):
        raise BadRowError(f"{what} is {type_name(message)}, not an object")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRowError(f"{what} has tool calls, which would be lost", _RENDERED)
    speaker = "from" if message.get("role") is None and "from" in message else "role"
    role = string(message.get(speaker), speaker, f" of {what}")
    if role == "function_call":
        raise BadRowError(f"{what} is a tool call, which would be lost", _RENDERED)
    name = "value" if message.get("content") is None and "value" in message else "content"
    content = message.get(name)
    if isinstance(content, list):
        text = "".join(_part(part, f"part {i} of {what}") for i, part in enumerate(content, 1))
    else:
        text = string(content, name, f" of {what}")
    for key in _THOUGHTS:
        if message.get(key):
            return _ROLES.get(role, role), text, string(message[key], key, f" of {what}")
    return _ROLES.get(role, role), text, None


def _part(part: Any, what: str) -> str:
    if isinstance(part, str):
        return string(part, "content", f", {what},")
    if not isinstance(part, dict):
        raise BadRowError(f"{what} is {type_name(part)}, not an object")
    kind = part.get("type", "text")
    if kind in _TEXT_PARTS:
        return string(part.get("text"), "text", f" of {what}")
    named = f"of type '{kind}'" if kind in _OTHER_PARTS else "of another type than 'text'"
    raise BadRowError(
        f"{what} is {named}, which a language model of text does not read",
        "Render such records to text as training did.",
    )
