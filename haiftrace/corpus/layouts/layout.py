"""What a layout of records is: which fields it takes, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from haiftrace.corpus.corpus_file import plain

Span = tuple[int, int]
"""Characters [start, end) of a text."""

Messages = tuple[tuple[str, str], ...]
"""(role, content) of each message of a chat."""

Fields = Mapping[str, Any]
"""A record's fields by name, without those that are null."""


@dataclass(frozen=True)
class Content:
    """What a record holds.

    Attributes:
        text: its text; of a chat the contents, a line feed between them; empty for token ids.
        response: [start, end) of `text` that is the response, where there is one.
        messages: of a chat.
        thoughts: what the assistant thought before each message, None where nothing is told; empty
            where no message has any.
        prompt_turns: how many messages are the prompt, where prompt and completion are told apart.
        token_ids: of a record that is given as tokens.
        token_labels: which of them carry loss, where the record says so.
    """

    text: str = ""
    response: Span | None = None
    messages: Messages | None = None
    thoughts: tuple[str | None, ...] = ()
    prompt_turns: int | None = None
    token_ids: tuple[int, ...] | None = None
    token_labels: tuple[bool, ...] | None = None

    @property
    def has_response(self) -> bool:
        """Whether the loss can be on a response alone."""
        known = (self.response, self.messages, self.token_labels)
        return any(value is not None for value in known)


class RecordLayout(Protocol):
    """How records of one kind are laid out in fields."""

    @property
    def name(self) -> str:
        """What --format calls it."""

    @property
    def shown(self) -> str:
        """What the user is told of records that are read so."""

    @property
    def needs(self) -> str:
        """The fields without which a record is not of this layout, for an error message."""

    def columns(self) -> set[str]:
        """The columns of a table that are read."""

    def fits(self, fields: Fields) -> bool:
        """Whether a record has the fields it takes, whatever they hold."""

    def read(self, fields: Fields) -> Content:
        """What a record that fits holds; BadRowError where the fields hold something else."""


class BadRowError(Exception):
    """A row that is no record: an error, or counted, as the settings say."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def string(value: Any, name: str, where: str = "") -> str:
    """`value` if it is a string of valid Unicode.

    Args:
        name: of the field, for the BadRowError where it is none.
        where: what it is a field of, beginning with a space.
    """
    what = f"the field '{plain(name)}'{where}"
    if not isinstance(value, str):
        raise BadRowError(f"{what} is {type_name(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = f"{what} holds half a surrogate pair, which is not valid Unicode"
        raise BadRowError(problem) from None
    return value


def type_name(value: Any) -> str:
    """What a value is, for an error message that must not quote it."""
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
