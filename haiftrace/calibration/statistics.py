"""Statistics of a ranking, p-values, q-values and histograms: numbers in, numbers out.

Shape letters: R records of the index, N draws of a null distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STATISTICS = ("margin", "z-score", "score", "relative margin")
"""score: the score over the norm of the question's gradient (HAIF's cosine). margin: the same less
that of the best record outside the record's group. z-score: the same less the median of the
question's scores, over their median absolute deviation, the record's group left out of both.
relative margin: the score less the mean of the best few outside the record's group, each of another
group, over that mean, where it is positive."""

WITHIN_A_QUESTION = ("margin", "z-score")
"""Those that compare a question's scores with each other. The score itself depends on how something
is asked, and a threshold from spans of records says little of it for questions."""

OF_STRENGTHS = ("relative margin",)
"""For scores that are positive and whose level differs with what is asked: spans of records meet
all other records at a higher level than questions do, and have larger margins for it."""

RIVALS = 4
"""The best few of a relative margin: one may be a near copy that was not taken for one."""

SPREAD = 1.4826
"""Median absolute deviation times this is the standard deviation of normally distributed values."""

Values = dict[str, float]
"""By statistic; NaN where it is undefined."""


@dataclass(frozen=True)
class Field:
    """The scores of one question over all records.

    Attributes:
        exact: [R] score over the norm of the question's gradient; -inf where it was not computed.
        background: [R] the same of every record: projected, where the index holds vectors that
            rank for the method, else exact. The z-score's median and spread are taken from it.
        groups: [R] which records tell the same.
    """

    exact: np.ndarray
    background: np.ndarray
    groups: np.ndarray

    def first(self, left_out: np.ndarray | None = None) -> int | None:
        """The best of the exact ones that are not left out [R]; None where there is none."""
        exact = self.exact if left_out is None else np.where(left_out, -np.inf, self.exact)
        best = int(np.argmax(exact))
        return best if np.isfinite(exact[best]) else None

    def values(self, record: int, left_out: np.ndarray | None = None) -> Values:
        """The statistics of one record, as if those left out [R] were not in the corpus."""
        others = self.groups != self.groups[record]
        if left_out is not None:
            others &= ~left_out
        value = float(self.exact[record])
        undefined = dict.fromkeys(STATISTICS, float("nan"))
        if not np.isfinite(value) or not others.any():
            return undefined
        rest = self.background[others]
        median = spread = float("nan")
        if np.isfinite(rest).all():  # a shortlist alone says nothing of the rest
            median = float(np.median(rest))
            spread = SPREAD * float(np.median(np.abs(rest - median)))
        best = self.best(others)
        level = float(best.mean()) if len(best) else 0.0
        return {
            "margin": value - float(best[0]) if len(best) else float("nan"),
            "z-score": (value - median) / spread if spread > 0 else float("nan"),
            "score": value,
            "relative margin": value / level - 1 if level > 0 else float("nan"),
        }

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
