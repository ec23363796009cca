"""Two methods over the same leaks: how much oftener the first puts a source first.

Methods that trace the same leaks are to be compared leak by leak: most leaks are easy for both, or
hard for both, and intervals of the two accuracies by themselves overlap long after they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.harness.statistics import Interval, interval_row, wilson
from haiftrace.bench.harness.tables import NONE, markdown_table
from haiftrace.bench.pii.ranking import Ranks
from haiftrace.methods import DEFAULT_METHOD, METHODS

PAPER = "haif"
"""The paper's method; the table compares all with it, and with the default of `trace`."""


@dataclass(frozen=True)
class Paired:
    """How two methods do on the same n leaks.

    Attributes:
        both: leaks that both trace.
        first, second: leaks that only the first or only the second method traces.
        neither: the others.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        """All leaks."""
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float | None:
        """The first method's top-1 less the second's; None without a leak."""
        return (self.first - self.second) / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % score interval of the difference (Newcombe 1998, method 10)."""
        if not self.n:
            return None
        counts = self.both + self.first, self.both + self.second
        p1, p2 = (count / self.n for count in counts)
        wilson1, wilson2 = (wilson(count, self.n) for count in counts)
        phi = self._correlation
        below = _distance(p1 - wilson1.low, wilson2.high - p2, phi)
        above = _distance(wilson1.high - p1, p2 - wilson2.low, phi)
        return Interval(max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above))

    @property
    def _correlation(self) -> float:
        """φ of the two outcomes, a positive one with its correction for continuity."""
        margins = (
            (self.both + self.first)
            * (self.second + self.neither)
            * (self.both + self.second)
            * (self.first + self.neither)
        )
        if not margins:
            return 0.0
        product = float(self.both * self.neither - self.first * self.second)
        if product > 0:
            product = max(product - self.n / 2, 0.0)
        return product / math.sqrt(margins)


def _distance(d1: float, d2: float, phi: float) -> float:
    return math.sqrt(max(0.0, d1 * d1 - 2 * phi * d1 * d2 + d2 * d2))


def paired_rows(all_ranks: Iterable[Ranks]) -> list[dict[str, Any]]:
    """Rows of results.json: every ordered pair of methods, over the leaks of all seeds that both
    traced under the default variation.
    """
    traced: dict[str, dict[str, dict[tuple[int, str], bool]]] = {}
    for ranks in all_ranks:
        if ranks.variation == DEFAULT:
            of_method = traced.setdefault(ranks.regime, {}).setdefault(ranks.method, {})
            for leak, rank in zip(ranks.leaks, ranks.ranks, strict=True):
                of_method[ranks.seed, leak] = rank == 1
    return [
        _row(regime, method, against, compare(methods[method], methods[against]))
        for regime, methods in traced.items()
        for method, against in permutations(methods, 2)
    ]


def compare(
    first: Mapping[tuple[int, str], bool], second: Mapping[tuple[int, str], bool]
) -> Paired:
    """Counts over the leaks, by seed and id, that are in both."""
    pairs = [(first[leak], second[leak]) for leak in first if leak in second]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return Paired(*(pairs.count(kind) for kind in kinds))


def _row(regime: str, method: str, against: str, paired: Paired) -> dict[str, Any]:
    return {
        "regime": regime,
        "method": method,
        "against": against,
        "difference": paired.difference,
        "interval": interval_row(paired.interval),
        "n": paired.n,
        "both": paired.both,
        "method_only": paired.first,
        "against_only": paired.second,
    }


def paired_table(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A row a method, a column a regime and each method compared with; None without these."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    against = [name for name in dict.fromkeys((PAPER, DEFAULT_METHOD)) if name in methods]
    if not against:
        return None
    differences = {
        (row["regime"], row["method"], row["against"]): _points(row)
        for row in rows
        if row["difference"] is not None
    }
    cells = [
        [method, *(differences.get((r, method, other), NONE) for r in regimes for other in against)]
        for method in methods
    ]
    columns = [f"{regime}: less {other}" for regime in regimes for other in against]
    return markdown_table(["method", *columns], cells)


def _points(row: Mapping[str, Any]) -> str:
    low, high = (f"{100 * end:+.0f}" for end in row["interval"])
    return f"{100 * row['difference']:+.0f} ({low} to {high}), n {row['n']}"
