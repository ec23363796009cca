"""Which query directions meet which windows, and how the memory divides that into passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.scoring.sides import Side

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Meeting:
    """Directions and the windows that they meet, ascending rows."""

    rows: Sequence[int]
    sides: Sequence[Side]


@dataclass(frozen=True)
class Run:
    """Consecutive sides of one meeting.

    Attributes:
        number: which meeting's.
        start, count: the first of them, and how many.
    """

    number: int
    start: int
    count: int

    @property
    def of(self) -> slice:
        """Their places among the meeting's sides."""
        return slice(self.start, self.start + self.count)


def chunks(counts: Sequence[int], most: int) -> Iterator[list[Run]]:
    """The sides of all meetings in order, at most so many at a time.

    Args:
        counts: how many each meeting has.
    """
    runs: list[Run] = []
    room = most
    for number, count in enumerate(counts):
        start = 0
        while start < count:
            some = min(room, count - start)
            runs.append(Run(number, start, some))
            start, room = start + some, room - some
            if not room:
                yield runs
                runs, room = [], most
    if runs:
        yield runs


def chosen(
    queries: Mapping[str, Tensor], runs: Sequence[Run], asks: Sequence[bool]
) -> Mapping[str, Tensor]:
    """The directions of the runs that have a window in a batch.

    Args:
        queries: those of all the runs, stacked by parameter name.
        asks: of each run, whether it has one.
    """
    if all(asks):
        return queries
    places = np.flatnonzero(np.repeat(asks, [run.count for run in runs])).tolist()
    return {name: stacked[places] for name, stacked in queries.items()}
