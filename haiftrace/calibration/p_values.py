"""How far a record stands out, p-values, q-values and histograms: numbers in, numbers out.

Shape letters: R records of the index, N draws of a null distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIVALS = 4
"""The best few that a margin is taken to: one may be a near copy that was not taken for one."""

LEAST_LEVEL = 1e-9
"""A level from here down says that no other record speaks for an answer."""

NEAREST, REACHING = 256, 2
"""Null samples that a margin is compared with, where there are more: so many, and as many that
alpha lets so many of them reach it, nearest to it in length of response or in level. Records of
other kinds, say prose beside biographies, come near each other at other levels."""


@dataclass(frozen=True)
class Standing:
    """How far a record stands out in a question's scores; both NaN where that is undefined.

    A score by itself depends on how something is asked, and a threshold from spans of records says
    little of it for questions: what is compared is how far it lies above those of other records.

    Attributes:
        margin: the score less the level; of strengths over the level, since all of a question's
            are the larger the more records are worded like it, as spans of records are.
        level: the mean of the best `RIVALS` scores outside the record's group, each of another
            group.
    """

    margin: float
    level: float


UNDEFINED = Standing(float("nan"), float("nan"))


@dataclass(frozen=True)
class Standings:
    """Those of N draws.

    Attributes:
        margin_N, level_N: see `Standing`.
    """

    margin_N: np.ndarray
    level_N: np.ndarray

    def nearest(self, distance_N: np.ndarray, count: int) -> np.ndarray:
        """Places of so many defined ones at the smallest distances, and of those as near."""
        places = np.flatnonzero(~np.isnan(self.margin_N))
        if len(places) <= count:
            return places
        distances = distance_N[places]
        farthest = np.partition(distances, count - 1)[count - 1]
        return places[distances <= farthest]


def nearest_count(alpha: float) -> int:
    """How many null samples a margin is compared with, where there are more."""
    return max(NEAREST, math.ceil(REACHING / alpha))


def levels_apart(level_N: np.ndarray, level: float) -> np.ndarray:
    """[N] the ratio between levels, as the absolute value of its logarithm."""
    if np.isnan(level):
        return np.zeros(len(level_N))
    return np.asarray(np.abs(np.log(_positive(level_N)) - np.log(_positive(level))))


@dataclass(frozen=True)
class Field:
    """The scores of one question over all records.

    Attributes:
        exact: [R] the scores, over the norm of the question's gradient where a method has one; -inf
            where it was not computed.
        groups: [R] which records tell the same.
        relative: whether margins are relative to the level: of scores that are never negative.
    """

    exact: np.ndarray
    groups: np.ndarray
    relative: bool = False

    @property
    def statistic(self) -> str:
        """What its margins are called."""
        return "relative margin" if self.relative else "margin"

    def first(self, left_out: np.ndarray | None = None) -> int | None:
        """The best of the exact ones that are not left out [R]; None where there is none."""
        exact = self.exact if left_out is None else np.where(left_out, -np.inf, self.exact)
        best = int(np.argmax(exact))
        return best if np.isfinite(exact[best]) else None

    def standing(self, record: int, left_out: np.ndarray | None = None) -> Standing:
        """That of one record, as if those left out [R] were not in the corpus."""
        others = self.groups != self.groups[record]
        if left_out is not None:
            others &= ~left_out
        value = float(self.exact[record])
        best = self.best(others)
        if not np.isfinite(value) or not len(best):
            return UNDEFINED
        level = float(best.mean())
        return Standing(self.margin(value, level), level)

    def margin(self, value: float, level: float) -> float:
        """How far a score lies above a level."""
        return value / float(_positive(level)) - 1 if self.relative else value - level

    def best(self, among: np.ndarray) -> np.ndarray:
        """The best scores of up to `RIVALS` groups, descending, of the records among these [R]."""
        scored = among & np.isfinite(self.exact)
        if not scored.any():
            return np.zeros(0)
        groups = self.groups[scored]
        best = np.full(int(groups.max()) + 1, -np.inf)
        np.maximum.at(best, groups, self.exact[scored])
        best = best[np.isfinite(best)]
        few = np.partition(best, -RIVALS)[-RIVALS:] if len(best) > RIVALS else best
        return np.sort(few)[::-1]


def _positive(level: float | np.ndarray) -> np.ndarray:
    return np.maximum(level, LEAST_LEVEL)


def p_value(value: float, null: np.ndarray) -> float:
    """(1 + how many null draws [N] are as high) / (1 + N); 1 for a value that is undefined."""
    if np.isnan(value):
        return 1.0
    return float(1 + np.count_nonzero(null >= value)) / (1 + len(null))


def resolves(draws: int, alpha: float) -> bool:
    """Whether a p-value over so many draws can be as low as alpha."""
    return 1.0 / (1 + draws) <= alpha


def threshold(null: np.ndarray, alpha: float) -> float | None:
    """The draw that a value must exceed for p ≤ alpha; None where no value can.

    p ≤ alpha allows at most floor(alpha (N + 1)) - 1 draws that are as high, so the value must be
    above the next one.
    """
    allowed = int(np.floor(alpha * (len(null) + 1) + 1e-9)) - 1
    if allowed < 0 or not len(null):
        return None
    ordered = np.sort(null)[::-1]
    return float(ordered[allowed]) if allowed < len(null) else float("-inf")


def power(present: np.ndarray, null: np.ndarray, alpha: float) -> float:
    """Share of the draws with their source there that have p ≤ alpha."""
    limit = threshold(null, alpha)
    return 0.0 if limit is None or not len(present) else float(np.mean(present > limit))


def q_values(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Benjamini and Hochberg (1995), in the order given.

    Those at most a are the discoveries at false discovery rate a.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(count)
    smallest = 1.0
    for place in range(count - 1, -1, -1):
        smallest = min(smallest, p_values[order[place]] * count / (place + 1))
        adjusted[order[place]] = smallest
    return [float(q) for q in adjusted]


def histogram(values: np.ndarray, bins: int = 24) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of equal bins over the values' range; every value is counted."""
    if not len(values):
        return (), ()
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        pad = max(abs(low), abs(high), 1e-12) * 1e-6
        low, high = low - pad, high + pad
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return tuple(float(edge) for edge in edges), tuple(int(count) for count in counts)
