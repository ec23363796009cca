"""A text in one field."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import columns_for, field_value
from haiftrace.corpus.layouts.layout import Content, Fields, string


@dataclass(frozen=True)
class TextLayout:
    """`{"text": …}`, or another field.

    Attributes:
        field: its name, or a path to it.
    """

    field: str
    name = "text"

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"text (field '{plain(self.field)}')"

    @property
    def needs(self) -> str:
        """The field."""
        return f"'{plain(self.field)}'"

    def columns(self) -> set[str]:
        """The column that holds the field."""
        return columns_for(self.field)

    def fits(self, fields: Fields) -> bool:
        """Whether the field is there."""
        return field_value(fields, self.field) is not None

    def read(self, fields: Fields) -> Content:
        """The text as it stands."""
        return Content(string(field_value(fields, self.field), self.field))
