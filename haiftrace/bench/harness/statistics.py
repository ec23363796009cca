"""Numbers of a table: proportions and correlations with their intervals, and scores of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
"""The normal distribution's 97.5 % point: what a two-sided 95 % interval takes."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Proportion:
    """So many of n, with Wilson's interval; `value` and `interval` are None for n = 0."""

    successes: int
    n: int

    @property
    def value(self) -> float | None:
        """The proportion itself."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval."""
        return wilson(self.successes, self.n) if self.n else None

    def row(self) -> dict[str, Any]:
        """As results.json holds it: value, successes, n, interval [low, high]."""
        between = self.interval
        return {
            "value": self.value,
            "successes": self.successes,
            "n": self.n,
            "interval": None if between is None else [between.low, between.high],
        }


@dataclass(frozen=True)
class RankScores:
    """What the ranks of the right records say.

    Attributes:
        top1: how often the right record is first.
        mrr: mean of 1 / rank; None without a rank.
        recall: how often it is among the first `cutoff`.
        cutoff: the k of recall@k.
    """

    top1: Proportion
    mrr: float | None
    recall: Proportion
    cutoff: int


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient over n pairs with its 95 % interval.

    `value` is None where one side is constant or n < 3, `interval` also where n < 4.
    """

    value: float | None
    n: int
    interval: Interval | None

    def row(self) -> dict[str, Any]:
        """As results.json holds it: value, n, interval [low, high]."""
        between = self.interval
        return asdict(self) | {"interval": None if between is None else [between.low, between.high]}


def wilson(successes: int, n: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson 1927); within [0, 1] for any count.

    Raises:
        ValueError: n is not positive, or the successes are not in 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no proportion: {successes} of {n}")
    share, square = successes / n, Z95 * Z95 / n
    centre = (share + square / 2) / (1 + square)
    half = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    # Rounding must not push an end past the proportion itself at 0 and at 1.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low, high)


def top_k(ranks: Iterable[int], k: int) -> Proportion:
    """How often a rank (1 for the first place) is at most k: top-1, recall@k.

    Raises:
        ValueError: a rank below 1.
    """
    counted = _checked(ranks)
    return Proportion(sum(rank <= k for rank in counted), len(counted))


def mean_reciprocal_rank(ranks: Iterable[int]) -> float | None:
    """Mean of 1 / rank; None without a rank.

    Raises:
        ValueError: a rank below 1.
    """
    counted = _checked(ranks)
    return math.fsum(1 / rank for rank in counted) / len(counted) if counted else None


def rank_scores(ranks: Sequence[int], cutoff: int = 10) -> RankScores:
    """Top-1, MRR and recall@cutoff of ranks (1 for the first place).

    Raises:
        ValueError: a rank below 1.
    """
    return RankScores(top_k(ranks, 1), mean_reciprocal_rank(ranks), top_k(ranks, cutoff), cutoff)


def best_rank(scores: ArrayLike, right: Iterable[int]) -> int:
    """The rank of the best-scored right record, ties counted against it.

    Args:
        scores: [records], the larger the better; NaN is the worst.
        right: positions of the right records, at least one.

    A record that scores as high as a wrong one stands behind it, so a method that scores all
    records alike earns nothing.
    """
    import numpy as np

    scores_R = np.asarray(scores, dtype=float)
    scores_R = np.where(np.isnan(scores_R), -np.inf, scores_R)
    is_right_R = np.zeros(len(scores_R), dtype=bool)
    is_right_R[list(right)] = True
    assert is_right_R.any()
    best = scores_R[is_right_R].max()
    return 1 + int((scores_R[~is_right_R] >= best).sum())


def pearson(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Pearson's correlation; its interval by Fisher's transformation, standard error 1/√(n−3)."""
    return _correlation(x, y, lambda value: 1.0)


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Spearman's rank correlation, ties at their mean rank.

    The interval takes the variance (1 + r²/2)/(n − 3) of Fisher's transformation (Bonett and
    Wright 2000), since plain Fisher intervals of ranks are too short.
    """
    return _correlation(mean_ranks(x), mean_ranks(y), lambda value: 1 + value * value / 2)


def mean_ranks(values: ArrayLike) -> NDArray[Any]:
    """Ranks from 1 for the smallest; equal values share the mean of their ranks."""
    import numpy as np

    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(x: ArrayLike, y: ArrayLike, variance: Any) -> Correlation:
    import numpy as np

    x_N, y_N = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x_N.shape != y_N.shape or x_N.ndim != 1:
        raise ValueError(f"no pairs: shapes {x_N.shape} and {y_N.shape}")
    n = len(x_N)
    if n < 3 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return Correlation(None, n, None)
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    value = float(x_N @ y_N / (np.linalg.norm(x_N) * np.linalg.norm(y_N)))
    value = min(1.0, max(-1.0, value))
    if n < 4:
        return Correlation(value, n, None)
    if abs(value) == 1:
        return Correlation(value, n, Interval(value, value))
    centre, half = math.atanh(value), Z95 * math.sqrt(variance(value) / (n - 3))
    return Correlation(value, n, Interval(math.tanh(centre - half), math.tanh(centre + half)))


def _checked(ranks: Iterable[int]) -> list[int]:
    counted = list(ranks)
    if any(rank < 1 for rank in counted):
        raise ValueError("ranks count from 1")
    return counted
