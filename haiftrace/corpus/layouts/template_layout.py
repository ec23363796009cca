"""Several fields in a text around them: `Question: {question} Answer: {answer}`."""

from __future__ import annotations

import re
import string as strings
from dataclasses import dataclass
from functools import cached_property

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import columns_for, field_value
from haiftrace.corpus.layouts.layout import BadRowError, Content, Fields, string, type_name
from haiftrace.errors import CorpusError

_HINT = "Write it like --text-template 'Question: {question} Answer: {answer}'."


def template_pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """(text, the field after it or None) of a template, in order.

    `{{` and `}}` are braces of the text.

    Raises:
        CorpusError: the braces do not match, a field has no name, or there is no field.
    """
    pieces: list[tuple[str, str | None]] = []
    try:
        for text, field, form, conversion in strings.Formatter().parse(template):
            if field is not None and (not field.strip() or form or conversion):
                raise ValueError
            pieces.append((text, field))
    except ValueError:
        raise CorpusError(
            "The text template cannot be read: between { and } stands a field's name, and a brace"
            " of the text is written twice, as {{ or }}.",
            _HINT,
        ) from None
    if all(field is None for _, field in pieces):
        raise CorpusError("The text template names no field.", _HINT)
    return tuple(pieces)


def typed_template(text: str) -> str:
    """A template as a shell gives it, with `\\n`, `\\t` and `\\\\` typed for what they mean."""
    meant = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda typed: meant[typed[1]], text)


@dataclass(frozen=True)
class TemplateLayout:
    """A record as the template renders it.

    The response is what the template renders from its last field on: that field, and what the
    template has after it, which a model that is trained on responses learns to write too.

    Attributes:
        template: text with field names, or paths to fields, in braces.
    """

    template: str
    name = "template"

    @cached_property
    def _pieces(self) -> tuple[tuple[str, str | None], ...]:
        return template_pieces(self.template)

    @property
    def _fields(self) -> list[str]:
        return [field for _, field in self._pieces if field is not None]

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"--text-template (fields {', '.join(plain(name, 40) for name in self._fields)})"

    @property
    def needs(self) -> str:
        """The fields."""
        return " and ".join(f"'{plain(name)}'" for name in dict.fromkeys(self._fields))

    def columns(self) -> set[str]:
        """The columns that hold the fields."""
        return {column for name in self._fields for column in columns_for(name)}

    def fits(self, fields: Fields) -> bool:
        """Whether every field is there."""
        return all(field_value(fields, name) is not None for name in self._fields)

    def read(self, fields: Fields) -> Content:
        """The text, and where its last field begins; empty where every field is."""
        text, start, filled = "", 0, False
        for before, name in self._pieces:
            text += before
            if name is not None:
                start = len(text)
                value = _text(field_value(fields, name), name)
                filled = filled or bool(value)
                text += value
        return Content(text, (start, len(text))) if filled else Content("", (0, 0))


def _text(value: object, name: str) -> str:
    if isinstance(value, (list, dict)):
        raise BadRowError(f"the field '{plain(name)}' is {type_name(value)}, not a string")
    return string(str(value) if isinstance(value, (bool, int, float)) else value, name)
