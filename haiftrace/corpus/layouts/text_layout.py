"""A text in one field."""

from __future__ import annotations

from dataclasses import dataclass

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.field_paths import field_value
from haiftrace.corpus.layouts.field_layout import FieldLayout
from haiftrace.corpus.layouts.layout import Content, Fields, string


@dataclass(frozen=True)
class TextLayout(FieldLayout):
    """`{"text": …}`, or another field."""

    name = "text"

    @property
    def shown(self) -> str:
        """What the user is told of it."""
        return f"text (field '{plain(self.field)}')"

    def read(self, fields: Fields) -> Content:
        """The text as it stands."""
        return Content(string(field_value(fields, self.field), self.field))
