"""A picture of the corpus: a tile for its records in their order, shaded by how many leaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.reports.formatting import count_text
from haiftrace.reports.page.leaking_records import LeakingRecord
from haiftrace.reports.sanitize import short

_COLUMNS = 60
_MOST_TILES = 1_200
_TILE = 10
_MOST_STRIPS = 12
_LEVELS = (1, 2, 4)
"""Leaks from which on a tile has the shade."""


@dataclass(frozen=True)
class Tile:
    """A square of the map: x and y of its corner, its shade 1 to 3, what it is in words."""

    x: int
    y: int
    level: int
    title: str


@dataclass(frozen=True)
class Strip:
    """The map of a file.

    Attributes:
        width, height: of the box, in the tiles' unit.
        plain: path data of the tiles without a leak.
        caption: what a tile is.
    """

    name: str
    width: int
    height: int
    plain: str
    tiles: tuple[Tile, ...]
    caption: str


def corpus_map(records: Sequence[LeakingRecord], total: int) -> list[Strip]:
    """A strip a file, those with most leaking records first.

    Args:
        total: records of the corpus, which is how many a strip has if there is one file only.
    """
    by_path: dict[str, list[LeakingRecord]] = defaultdict(list)
    for record in records:
        by_path[record.source.path].append(record)
    paths = sorted(by_path, key=lambda path: (-len(by_path[path]), path))
    if all(record.source.line is None for record in records):
        return [_strip("", records, 0)] if records else []
    return [
        _strip(path, by_path[path], total if len(paths) == 1 else 0)
        for path in paths[:_MOST_STRIPS]
    ]


def _strip(path: str, records: Sequence[LeakingRecord], total: int) -> Strip:
    """Where records have lines a tile stands for a line or some; else for a record."""
    lines = [record.source.line or number for number, record in enumerate(records, 1)]
    last = max([total, *lines])
    lines_a_tile = -(-last // _MOST_TILES)
    count = -(-last // lines_a_tile)
    leaks: dict[int, int] = defaultdict(int)
    names: dict[int, list[str]] = defaultdict(list)
    for line, record in zip(lines, records, strict=True):
        at = (line - 1) // lines_a_tile
        leaks[at] += len(record.findings)
        names[at].append(record.name or record.place)
    tiles = [
        Tile(*_corner(at), _level(leaks[at]), _title(names[at], leaks[at])) for at in sorted(leaks)
    ]
    side = _TILE - 2
    plain = "".join(
        "M{} {}h{side}v{side}h-{side}z".format(*_corner(at), side=side)
        for at in range(count)
        if at not in leaks
    )
    each = "a record" if lines_a_tile == 1 else f"{lines_a_tile:,} records"
    until = "" if total or not path else f", up to line {last:,}"
    return Strip(
        short(path, _COLUMNS),
        _TILE * min(count, _COLUMNS) - 2,
        _TILE * (-(-count // _COLUMNS)) - 2,
        plain,
        tuple(tiles),
        f"A square is {each}, in the order of the file{until}.",
    )


def _corner(at: int) -> tuple[int, int]:
    return _TILE * (at % _COLUMNS), _TILE * (at // _COLUMNS)


def _level(leaks: int) -> int:
    return sum(leaks >= least for least in _LEVELS)


def _title(names: Sequence[str], leaks: int) -> str:
    more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more}: {count_text(leaks, 'leak')}"
