"""What layouts of a single field share: which field, and when a record has it."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import columns_for, field_value
from haiftrace.corpus.layouts.layout import Fields


@dataclass(frozen=True)
class FieldLayout:
    """A record in one field, whatever that holds.

    Attributes:
        field: its name, or a path to it.
    """

    field: str

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
