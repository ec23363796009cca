"""The layouts of records by name. A further one is a file here, and an entry."""

from __future__ import annotations

from collections.abc import Callable

from haiftrace.corpus.layouts.alpaca_layout import AlpacaLayout
from haiftrace.corpus.layouts.chat_layouts import MessagesLayout, ShareGptLayout
from haiftrace.corpus.layouts.layout import (
    BadRowError,
    Content,
    Fields,
    Messages,
    RecordLayout,
    Span,
)
from haiftrace.corpus.layouts.pair_layout import PairLayout
from haiftrace.corpus.layouts.template_layout import TemplateLayout, template_pieces, typed_template
from haiftrace.corpus.layouts.text_layout import TextLayout
from haiftrace.corpus.layouts.tokens_layout import TokensLayout
from haiftrace.corpus.settings import DEFAULT_TEXT_FIELD, CorpusSettings

__all__ = [
    "LAYOUTS",
    "BadRowError",
    "Content",
    "Fields",
    "Messages",
    "RecordLayout",
    "Span",
    "layouts_of",
    "template_pieces",
    "typed_template",
]

LAYOUTS: dict[str, Callable[[str | None], RecordLayout]] = {
    "text": lambda field: TextLayout(field or DEFAULT_TEXT_FIELD),
    "messages": lambda field: MessagesLayout(field or "messages"),
    "prompt-completion": lambda field: PairLayout(),
    "sharegpt": lambda field: ShareGptLayout(field or "conversations"),
    "alpaca": lambda field: AlpacaLayout(),
}
"""A layout by what --format calls it, given the name of its one field where another is named; in
the order in which a record that fits several is read."""


def layouts_of(settings: CorpusSettings) -> tuple[RecordLayout, ...]:
    """The layouts that records may have, the first that fits a record is its own."""
    named = None if settings.text_field == DEFAULT_TEXT_FIELD else settings.text_field
    if settings.text_template is not None:
        return (TemplateLayout(settings.text_template),)
    if settings.ids_field is not None:
        return (TokensLayout(settings.ids_field),)
    if settings.format is not None:
        return (LAYOUTS[settings.format](named),)
    if named is not None:
        return (TextLayout(named),)
    layouts = [make(None) for make in LAYOUTS.values()]
    if settings.loss_on == "response":  # a text has no response: whatever has one goes before it
        layouts = [*layouts[1:], layouts[0]]
    return tuple(layouts)
