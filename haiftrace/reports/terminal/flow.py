"""Text as a flow of units that never break: excerpts of long texts, and lines of a given width."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, chop_cells
from rich.text import Text

from haiftrace.reports.word_evidence import CLOSERS, OPENERS
from haiftrace.text.words import SPACELESS

_PIECES = re.compile(rf"\n|{SPACELESS.pattern}|(?:(?!{SPACELESS.pattern})\S)+")
_LONGEST_UNIT = 60  # cells; in an excerpt a longer run without a space loses its middle


@dataclass(frozen=True)
class Unit:
    """What stays on one line, if it fits there: a word, or a word with its mark.

    Attributes:
        text: inert text, to be shown as it is.
        style: a rich style, empty for plain text.
        gap: whether white space stands before it.
        key: whether an excerpt must show it.
    """

    text: str
    style: str = ""
    gap: bool = False
    key: bool = False


def plain_units(text: str, show: Callable[[str], str], *, style: str = "") -> Iterator[Unit]:
    """Cut `text` into units at its white space, `show` making each inert; a line break is shown."""
    end = 0
    for match in _PIECES.finditer(text):
        is_break = match[0] == "\n"
        gap = match.start() > end or is_break or text[end - 1 : end] == "\n"
        yield Unit(show(match[0]), "dim" if is_break else style, gap)
        end = match.end()


def gapped(units: Sequence[Unit]) -> list[Unit]:
    """The units with white space before the first, to follow other ones."""
    return [replace(unit, gap=unit.gap or number == 0) for number, unit in enumerate(units)]


def excerpt(units: Sequence[Unit], *, limit: int, context: int) -> tuple[list[Unit], bool]:
    """Cut a long flow to what matters.

    Args:
        units: the flow, uncut.
        limit: cells that it may take uncut.
        context: cells to be shown before and after each key unit.

    Returns:
        The units to show, with an ellipsis for each run left out, and whether any was. Where no
        unit is a key, the beginning and the end.
    """
    if sum(_cells(unit) for unit in units) <= limit:
        return list(units), False
    keys = [index for index, unit in enumerate(units) if unit.key]
    if keys:
        shown = set[int]()
        for key in keys:
            shown.update(_around(units, key, context))
    else:
        forward, backward = range(len(units)), range(len(units) - 1, -1, -1)
        shown = {*_reach(units, forward, limit // 2), *_reach(units, backward, limit // 2)}
    kept: list[Unit] = []
    previous = -1
    for index in sorted(shown):
        if index > previous + 1:
            kept.append(Unit("…", "dim", gap=True))
        kept.append(_clipped(units[index]))
        previous = index
    if previous + 1 < len(units):
        kept.append(Unit("…", "dim", gap=True))
    return kept, True


def wrap(units: Sequence[Unit], width: int) -> list[Text]:
    """Lay the units in lines of at most `width` cells; only a unit longer than that is broken."""
    lines = [Text()]
    room = width
    for group in _groups(units):
        gap = 1 if group[0].gap and room < width else 0
        if gap + sum(cell_len(unit.text) for unit in group) > room and room < width:
            lines.append(Text())
            room, gap = width, 0
        lines[-1].append(" " * gap)
        room -= gap
        for unit in group:
            fits = cell_len(unit.text) <= room
            for fragment in [unit.text] if fits else _chopped(unit.text, width):
                if cell_len(fragment) > room and room < width:
                    lines.append(Text())
                    room = width
                lines[-1].append(fragment, unit.style)
                room -= cell_len(fragment)
    return lines


def _chopped(text: str, width: int) -> list[str]:
    return chop_cells(text, width) if cell_len(text) > width else [text]


def _groups(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Runs of units between which no line may break: an opening bracket and its word, say."""
    group: list[Unit] = []
    for unit in units:
        if group and _may_break(group[-1], unit):
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def _may_break(left: Unit, right: Unit) -> bool:
    if right.gap or not left.text or not right.text:
        return True
    is_mark = unicodedata.category(right.text[0]).startswith("M")
    return not (is_mark or right.text[0] in CLOSERS or left.text[-1] in OPENERS)


def _around(units: Sequence[Unit], key: int, context: int) -> set[int]:
    left = _reach(units, range(key - 1, -1, -1), context)
    right = _reach(units, range(key + 1, len(units)), context)
    return {key, *left, *right}


def _reach(units: Sequence[Unit], indices: range, cells: int) -> Iterator[int]:
    for index in indices:
        cells -= _cells(_clipped(units[index]))
        if cells < 0:
            return
        yield index


def _cells(unit: Unit) -> int:
    return cell_len(unit.text) + int(unit.gap)


def _clipped(unit: Unit) -> Unit:
    if cell_len(unit.text) <= _LONGEST_UNIT or unit.key:
        return unit
    half = _LONGEST_UNIT // 2 - 1
    pieces = chop_cells(unit.text, half)
    return replace(unit, text=f"{pieces[0]}…{pieces[-1] if len(pieces) > 1 else ''}")
