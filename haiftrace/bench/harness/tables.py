"""Tables as Markdown that also reads well as plain text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from haiftrace.bench.harness.statistics import Interval, Proportion

NONE = "–"
"""A cell of a number that does not exist."""


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A padded Markdown table, without a final line feed.

    Args:
        columns: the header.
        rows: cells as text, as many in each row as there are columns.
        left: how many of the first columns are words, aligned left; the others are numbers.

    Raises:
        ValueError: a row of another length.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a row has more or fewer cells than the table has columns")
    cells = [[_escaped(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *(_width(row[c]) for row in cells)) for c in range(len(columns))]
    rule = ["-" * w if c < left else "-" * (w - 1) + ":" for c, w in enumerate(widths)]
    lines = [
        [_padded(cell, widths[c], c < left) for c, cell in enumerate(row)]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pivoted_table(
    rows: Sequence[Mapping[str, Any]],
    index: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[Mapping[str, Any]], str],
    left: int | None = None,
) -> str:
    """A Markdown table of rows by the values of `index` and `columns`, in order of appearance.

    Args:
        rows: of results.json, at least one, and one at most for each line and column.
        index: keys whose values begin a line; their names head the first columns.
        columns: keys whose values, with colons between, head the other columns.
        cell: a row's text; `NONE` stands where there is no row.
        left: how many columns are aligned left, all of the index by default.
    """
    import pandas as pd

    frame = pd.DataFrame(rows, columns=[*index, *columns]).assign(cell=[cell(row) for row in rows])
    by_key = frame.set_index([*index, *columns])["cell"]
    wide = by_key.unstack(list(columns), sort=False, fill_value=NONE)
    head = [": ".join(map(str, _as_tuple(key))) for key in wide.columns]
    lines = [
        [*map(str, _as_tuple(key)), *cells]
        for key, cells in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return markdown_table([*index, *head], lines, left=len(index) if left is None else left)


def percent(proportion: Proportion) -> str:
    """`87 % (79 to 92)`: a proportion and its interval, rounded to percent."""
    if proportion.value is None or proportion.interval is None:
        return NONE
    low, high = (round(100 * end) for end in (proportion.interval.low, proportion.interval.high))
    return f"{100 * proportion.value:.0f} % ({low} to {high})"


def number(value: float | None, digits: int = 3) -> str:
    """A number in so many significant digits; `–` for None."""
    return NONE if value is None else f"{value:.{digits}g}"


def signed(value: float | None, interval: Interval | None = None) -> str:
    """`+0.81 (+0.73 to +0.87)`: a correlation and its interval."""
    if value is None:
        return NONE
    ends = "" if interval is None else f" ({interval.low:+.2f} to {interval.high:+.2f})"
    return f"{value:+.2f}{ends}"


def _as_tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _width(text: str) -> int:
    # Chinese takes two columns of a terminal.
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(cell: str, width: int, left: bool) -> str:
    space = " " * (width - _width(cell))
    return cell + space if left else space + cell
