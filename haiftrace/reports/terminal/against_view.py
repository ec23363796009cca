"""A report beside an earlier one, on the terminal: the counts, and a line a leak."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from haiftrace.findings import Report
from haiftrace.gate_outcome import ComparedLeak, ReportComparison
from haiftrace.reports.comparison_words import (
    change_text,
    comparison_counts,
    comparison_notes,
    places_text,
)
from haiftrace.reports.formatting import clip
from haiftrace.reports.terminal.page import Page, ending

_NAME_CELLS = 24  # of a probe's id
_VALUE_CELLS = 20
_PLACE_CELLS = 16  # of a place, at least
_GAP = "  "


def print_comparison(page: Page, comparison: ReportComparison, report: Report) -> None:
    """Print what is new, still there and gone since the earlier report.

    Args:
        report: the later one.
    """
    page.entry("Against", page.words(f"the earlier report: {comparison_counts(comparison)}."))
    for note in comparison_notes(comparison, report):
        page.entry("", page.words(note))
    if not comparison.leaks:
        return
    page.blank()
    rows: list[tuple[str, ...]] = [("", "probe", "type", "kind", "value")]
    rows += [_cells(page, leak) for leak in comparison.leaks]
    places = ["source", *(page.show(places_text(leak)) for leak in comparison.leaks)]
    sizes = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    longest = min(max(map(cell_len, places)), _PLACE_CELLS)
    while len(sizes) > 1 and sum(sizes) + len(_GAP) * len(sizes) + longest > page.width:
        sizes.pop()  # the value first: its type and its probe name it, too
    room = max(page.width - sum(sizes) - len(_GAP) * len(sizes), 1)
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        cells = [set_cell_size(cell, size) for cell, size in zip(row, sizes, strict=False)]
        line = _GAP.join([*cells, ending(place, room)])
        page.line(Text(set_cell_size(line, page.width), "bold" if number == 0 else ""))


def _cells(page: Page, leak: ComparedLeak) -> tuple[str, ...]:
    return (
        leak.state,
        clip(page.show(leak.probe), _NAME_CELLS),
        clip(page.show(leak.type), _NAME_CELLS),
        page.show(change_text(leak)),
        clip(page.show(leak.value), _VALUE_CELLS),
    )
