"""Numbers of a table: proportions and correlations with their intervals, and scores of ranks.

scipy and pandas (extra "bench") are imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def row(self) -> list[float]:
        """As results.json holds it: [low, high]."""
        return [self.low, self.high]


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
        return {
            "value": self.value,
            "successes": self.successes,
            "n": self.n,
            "interval": interval_row(self.interval),
        }


@dataclass(frozen=True)
class RankScores:
    """Top-1, mean reciprocal rank and recall@k of the ranks of sources.

    Attributes:
        top1: how often the source is first.
        mrr: mean of 1 / rank; None without a rank.
        recall: how often it is among the first `cutoff`.
        cutoff: the k of recall@k.
    """

    top1: Proportion
    mrr: float | None
    recall: Proportion
    cutoff: int

    def row(self) -> dict[str, Any]:
        """As results.json holds them: n, top1 and its interval, mrr, recall@cutoff."""
        return {
            "n": self.top1.n,
            "top1": self.top1.value,
            "interval": interval_row(self.top1.interval),
            "mrr": self.mrr,
            f"recall{self.cutoff}": self.recall.value,
        }


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient over n pairs with its 95 % interval.

    `value` is None where x or y is constant or n < 3, `interval` also where n < 4.
    """

    value: float | None
    n: int
    interval: Interval | None

    def row(self) -> dict[str, Any]:
        """As results.json holds it: value, n, interval [low, high]."""
        return {"value": self.value, "n": self.n, "interval": interval_row(self.interval)}


def interval_row(interval: Interval | None) -> list[float] | None:
    """An interval as results.json holds it: [low, high], or null where there is none."""
    return None if interval is None else interval.row()


def wilson(successes: int, n: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson 1927); within [0, 1] for any count.

    Raises:
        ValueError: n is not positive, or the successes are not in 0..n.
    """
    from scipy.stats import binomtest

    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no proportion: {successes} of {n}")
    low, high = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(low), float(high))


def top_k(ranks: Iterable[int], k: int) -> Proportion:
    """How often a rank (1 for the first place) is at most k: top-1, recall@k.

    Raises:
        ValueError: a rank below 1.
    """
    ranks = _checked(ranks)
    return Proportion(sum(rank <= k for rank in ranks), len(ranks))


def mean_reciprocal_rank(ranks: Iterable[int]) -> float | None:
    """Mean of 1 / rank; None without a rank.

    Raises:
        ValueError: a rank below 1.
    """
    ranks = _checked(ranks)
    return math.fsum(1 / rank for rank in ranks) / len(ranks) if ranks else None


def rank_scores(ranks: Sequence[int], cutoff: int = 10) -> RankScores:
    """Top-1, MRR and recall@cutoff of ranks (1 for the first place).

    Raises:
        ValueError: a rank below 1.
    """
    return RankScores(top_k(ranks, 1), mean_reciprocal_rank(ranks), top_k(ranks, cutoff), cutoff)


def pooled(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each combination of `keys`: the proportion of all rows that have it together.

    Args:
        rows: with "successes", "n" and the keys.
        keys: of the rows returned, beside those of `Proportion.row`; in order of appearance.
    """
    import pandas as pd

    if not rows:
        return []
    counts = pd.DataFrame(rows).groupby(list(keys), sort=False)[["successes", "n"]].sum()
    return [
        {**{key: row[key] for key in keys}, **Proportion(row["successes"], row["n"]).row()}
        for row in counts.reset_index().to_dict("records")
    ]


def best_rank(scores: ArrayLike, sources: Iterable[int]) -> int:
    """The rank of the source that scores highest, ties counted against it.

    Args:
        scores: [records], the larger the better; NaN is the worst.
        sources: positions of the sources, at least one.

    A source that scores as high as another record stands behind it, so a method that scores all
    records alike earns nothing.
    """
    import numpy as np

    scores_R = np.asarray(scores, dtype=float)
    scores_R = np.where(np.isnan(scores_R), -np.inf, scores_R)
    is_source_R = np.zeros(len(scores_R), dtype=bool)
    is_source_R[list(sources)] = True
    assert is_source_R.any()
    top_source_score = scores_R[is_source_R].max()
    return 1 + int((scores_R[~is_source_R] >= top_source_score).sum())


def pearson(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Pearson's correlation; its interval by Fisher's transformation, standard error 1/√(n−3).

    Args:
        x, y: [pairs] numbers.

    Raises:
        ValueError: the shapes differ, or are not one-dimensional.
    """
    from scipy.stats import pearsonr

    n = _count_pairs(x, y)
    if n < 3 or _is_constant(x) or _is_constant(y):
        return Correlation(None, n, None)
    result = pearsonr(x, y)
    value = float(result.statistic)
    if n < 4:
        return Correlation(value, n, None)
    low, high = result.confidence_interval(CONFIDENCE)
    return Correlation(value, n, Interval(float(low), float(high)))


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Spearman's rank correlation, ties at their mean rank.

    The interval takes the variance (1 + r²/2)/(n − 3) of Fisher's transformation (Bonett and
    Wright 2000), since plain Fisher intervals of ranks are too short.

    Args:
        x, y: [pairs] numbers, infinite ones too.

    Raises:
        ValueError: the shapes differ, or are not one-dimensional.
    """
    from scipy.stats import norm, spearmanr

    n = _count_pairs(x, y)
    if n < 3 or _is_constant(x) or _is_constant(y):
        return Correlation(None, n, None)
    value = min(1.0, max(-1.0, float(spearmanr(x, y).statistic)))
    if n < 4:
        return Correlation(value, n, None)
    if abs(value) == 1:
        return Correlation(value, n, Interval(value, value))
    half = norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + value * value / 2) / (n - 3))
    centre = math.atanh(value)
    return Correlation(value, n, Interval(math.tanh(centre - half), math.tanh(centre + half)))


def _count_pairs(x: ArrayLike, y: ArrayLike) -> int:
    """How many pairs there are."""
    import numpy as np

    if np.shape(x) != np.shape(y) or np.ndim(x) != 1:
        raise ValueError(f"no pairs: shapes {np.shape(x)} and {np.shape(y)}")
    return int(np.shape(x)[0])


def _is_constant(values: ArrayLike) -> bool:
    import numpy as np

    return np.unique(np.asarray(values)).size == 1


def _checked(ranks: Iterable[int]) -> list[int]:
    ranks = list(ranks)
    if any(rank < 1 for rank in ranks):
        raise ValueError("ranks count from 1")
    return ranks
