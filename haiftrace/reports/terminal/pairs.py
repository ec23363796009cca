"""Which words of the record taught which word of the response, in lines of a terminal."""

from __future__ import annotations

from rich.cells import cell_len

from haiftrace.findings import RecordEvidence
from haiftrace.reports.formatting import clip
from haiftrace.reports.terminal.flow import Unit
from haiftrace.reports.terminal.page import Page
from haiftrace.reports.word_pairs import (
    ARROW,
    RESPONSE_WORD_CELLS,
    AttributedWord,
    attributed_words,
)


def print_pairs(page: Page, record: RecordEvidence) -> None:
    """A line for each word of the response, the arrows under each other; nothing without pairs."""
    rows = attributed_words(record)
    names = [clip(page.show(row.text), RESPONSE_WORD_CELLS) for row in rows]
    widest = max(map(cell_len, names), default=0)
    for row, name in zip(rows, names, strict=True):
        units = [Unit(" " * (widest - cell_len(name))), Unit(name, "bold")]
        units.append(Unit(page.show(ARROW), "dim", gap=True))
        units += [Unit(entry, gap=True) for entry in _entries(page, row)]
        page.block(units)


def pairs_in_a_line(page: Page, record: RecordEvidence) -> str:
    """Each word of the response with the word that taught it most; empty without pairs."""
    lines = []
    for row in attributed_words(record):
        name = f"{clip(page.show(row.text), RESPONSE_WORD_CELLS)} {page.show(ARROW)}"
        source = row.sources[0]
        lines.append(f"{name} {clip(page.show(source.text))} {source.percent}")
    return ", ".join(lines)


def _entries(page: Page, row: AttributedWord) -> list[str]:
    entries = [f"{clip(page.show(source.text))} {source.percent}" for source in row.sources]
    return [f"{entry}," for entry in entries[:-1]] + entries[-1:]
