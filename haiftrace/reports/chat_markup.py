"""Where a text is a chat: its turns, and the tokens that a chat template puts between them.

Known are the templates of ChatML (Qwen, SmolLM), Llama 2 and 3, Mistral, Gemma, Phi, Zephyr,
DeepSeek and Harmony, by their tokens; a text without any of these has no turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ipython": "tool",
    "tool": "tool",
    "inst": "user",
    "sys": "system",
}
_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</?s>|<(?:bos|eos|pad|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>"
)
_NAME = re.compile(r"\w+")
_HEADER = re.compile(r"[ ]?(\w+)?")
_OPENS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start|>")
"""Tokens that a role's name follows."""
_BY_CLOSING = {"[/INST]": "assistant", "<</SYS>>": "user"}
_WITHIN = ("<|end_header_id|>", "<|message|>")
"""Tokens that end a role's name or a header, within a turn."""


@dataclass(frozen=True)
class Markup:
    """A stretch of a text that is the template's: a token, with its role's name and line break.

    Attributes:
        start, end: character offsets.
        role: of the turn that begins here; None where none does.
    """

    start: int
    end: int
    role: str | None


@dataclass(frozen=True)
class Turn:
    """A stretch of a text that one speaks; `role` is empty where that is not known."""

    role: str
    start: int
    end: int


def find_markup(text: str) -> list[Markup]:
    """The template's tokens, in order; empty for a text that is no chat."""
    markup: list[Markup] = []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if markup and start < markup[-1].end:
            continue
        role = None
        if match[0] in _OPENS:
            header = _HEADER.match(text, end)
            name = header[1] if header is not None else None
            if name is not None and header is not None:
                role, end = _ROLES.get(name.lower(), name.lower()), header.end()
            else:
                role = ""
        elif match[0] == "<|channel|>":
            named = _NAME.match(text, end)
            end = end if named is None else named.end()
        elif not match[0].startswith(("</", "[/", "<</")) and match[0] not in _WITHIN:
            name = _NAME.search(match[0])
            role = _ROLES.get(name[0].lower()) if name is not None else None
        role = _BY_CLOSING.get(match[0], role)
        markup.append(Markup(start, _with_break(text, end), role))
    return markup


def find_turns(text: str) -> list[Turn]:
    """The turns of a chat, which together are all of the text; a single one where it is none."""
    starts = [(mark.start, mark.role) for mark in find_markup(text) if mark.role is not None]
    return list(_turns(text, starts))


def is_chat(text: str) -> bool:
    """Whether a text has turns, by its template's tokens."""
    return any(mark.role for mark in find_markup(text))


def _turns(text: str, starts: list[tuple[int, str]]) -> Iterator[Turn]:
    """What stands before the first turn is part of it, unless it says something."""
    role, at = "", 0
    for start, next_role in starts:
        if start > at and _says_something(text[at:start]):
            yield Turn(role, at, start)
            at = start
        role = next_role
    if at < len(text):
        yield Turn(role, at, len(text))


def _says_something(text: str) -> bool:
    return bool(_TOKEN.sub("", text).strip())


def _with_break(text: str, end: int) -> int:
    """The end with one line break behind it, which the template puts there."""
    if text.startswith("\r\n", end):
        return end + 2
    return end + 1 if text.startswith("\n", end) else end
