"""How far a record stands out, p-values, q-values and histograms: numbers in, numbers out.

Shape letters: R records of the index, N samples of a null distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RIVALS = 4
"""Records that a margin is taken to: a single one may be a near copy that was not taken for one."""

LEAST_LEVEL = 1e-9
"""A level from here down says that no other record made an answer likelier."""

NEAREST, REACHING = 256, 2
"""Null samples that a margin is compared with, where there are more: so many, and as many that
alpha lets so many of them reach it, nearest to it in length of response or in level. Records of
other kinds, say prose beside biographies, come near each other at other levels."""


@dataclass(frozen=True)
class Margin:
    """How far a record stands out in a query's scores; both NaN where that is undefined.

    A score by itself depends on the wording of a query, and a threshold from spans of records says
    little of it for questions: what is compared is how far it lies above those of other records.

    Attributes:
        value: the score less the level; of scores that are never negative relative to the level,
            since all of a query's are the larger the more records are worded like it, as spans of
            records are.
        level: the mean of the largest `RIVALS` scores outside the record's group, each of another
            group.
    """

    value: float
    level: float


UNDEFINED = Margin(float("nan"), float("nan"))


@dataclass(frozen=True)
class Margins:
    """Those of N samples.

    Attributes:
        value_N, level_N: see `Margin`.
    """

    value_N: np.ndarray
    level_N: np.ndarray

    def nearest(self, distance_N: np.ndarray, count: int) -> np.ndarray:
        """Places of so many defined ones at the smallest distances, and of those as near."""
        places = np.flatnonzero(~np.isnan(self.value_N))
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
class RecordScores:
    """The scores of one query over all records.

    Attributes:
        scores_R: comparable between queries; -inf where none was computed.
        groups_R: the near-copy group of each record.
        relative: whether margins are relative to the level: of scores that are never negative.
    """

    scores_R: np.ndarray
    groups_R: np.ndarray
    relative: bool = False

    @property
    def statistic(self) -> str:
        """What its margins are called."""
        return "relative margin" if self.relative else "margin"

    def first(self, left_out: np.ndarray | None = None) -> int | None:
        """The record that scores highest of those not left out [R]; None where there is none."""
        scores_R = self.scores_R if left_out is None else np.where(left_out, -np.inf, self.scores_R)
        highest = int(np.argmax(scores_R))
        return highest if np.isfinite(scores_R[highest]) else None

    def margin(self, record: int, left_out: np.ndarray | None = None) -> Margin:
        """That of one record, as if those left out [R] were not in the corpus."""
        others_R = self.groups_R != self.groups_R[record]
        if left_out is not None:
            others_R &= ~left_out
        score = float(self.scores_R[record])
        rivals = self.rivals(others_R)
        if not np.isfinite(score) or not len(rivals):
            return UNDEFINED
        level = float(rivals.mean())
        return Margin(self.above(score, level), level)

    def above(self, score: float, level: float) -> float:
        """How far a score lies above a level."""
        return score / float(_positive(level)) - 1 if self.relative else score - level

    def rivals(self, among_R: np.ndarray) -> np.ndarray:
        """The largest scores of up to `RIVALS` groups, descending, of the records among these."""
        scored_R = among_R & np.isfinite(self.scores_R)
        if not scored_R.any():
            return np.zeros(0)
        groups = self.groups_R[scored_R]
        largest = np.full(int(groups.max()) + 1, -np.inf)
        np.maximum.at(largest, groups, self.scores_R[scored_R])
        largest = largest[np.isfinite(largest)]
        if len(largest) > RIVALS:
            largest = np.partition(largest, -RIVALS)[-RIVALS:]
        return np.sort(largest)[::-1]


def _positive(level: float | np.ndarray) -> np.ndarray:
    return np.maximum(level, LEAST_LEVEL)


def p_value(value: float, null: np.ndarray) -> float:
    """(1 + how many null samples [N] are as high) / (1 + N); 1 for a value that is undefined."""
    if np.isnan(value):
        return 1.0
    return float(1 + np.count_nonzero(null >= value)) / (1 + len(null))


def resolves(samples: int, alpha: float) -> bool:
    """Whether a p-value over so many samples can be as low as alpha."""
    return 1.0 / (1 + samples) <= alpha


def threshold(null: np.ndarray, alpha: float) -> float | None:
    """The null sample that a value must exceed for p ≤ alpha; None where no value can.

    p ≤ alpha allows at most floor(alpha (N + 1)) - 1 samples that are as high, so the value must be
    above the next one.
    """
    allowed = int(np.floor(alpha * (len(null) + 1) + 1e-9)) - 1
    if allowed < 0 or not len(null):
        return None
    ordered = np.sort(null)[::-1]
    return float(ordered[allowed]) if allowed < len(null) else float("-inf")


def power(present: np.ndarray, null: np.ndarray, alpha: float) -> float:
    """Share of the samples with their source there that have p ≤ alpha."""
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
