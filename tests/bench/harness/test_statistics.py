"""Intervals, rank scores and correlations against hand-counted and closed-form cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from haiftrace.bench.harness.statistics import (
    Proportion,
    best_rank,
    mean_reciprocal_rank,
    pearson,
    rank_scores,
    spearman,
    top_k,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, table I, method 3) for the first three.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_against_published_intervals(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_solves_its_equation_and_mirrors():
    for successes, n in ((3, 7), (1, 1), (50, 1000)):
        interval, mirrored = wilson(successes, n), wilson(n - successes, n)
        assert interval.low == pytest.approx(1 - mirrored.high)
        for end in (interval.low, interval.high):
            if 0 < end < 1:
                score = (successes / n - end) / math.sqrt(end * (1 - end) / n)
                assert abs(score) == pytest.approx(1.959963984540054)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3), (1, -2)])
def test_what_is_no_proportion_is_refused(successes, n):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, n)


def test_a_proportion_of_nothing_has_no_value():
    assert Proportion(0, 0).row() == {"value": None, "successes": 0, "n": 0, "interval": None}
    row = Proportion(1, 4).row()
    assert row["value"] == 0.25
    assert row["interval"] == pytest.approx([0.0456, 0.6994], abs=1e-4)


def test_rank_scores_counted_by_hand():
    scores = rank_scores([1, 2, 4, 11, 1, 10])
    assert (scores.top1.successes, scores.top1.n) == (2, 6)
    assert (scores.recall.successes, scores.cutoff) == (5, 10)
    assert scores.mrr == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 11 + 1 + 1 / 10) / 6)
    assert top_k([1, 2, 4, 11, 1, 10], 3).value == 0.5
    assert mean_reciprocal_rank([]) is None
    assert rank_scores([]).top1.value is None
    with pytest.raises(ValueError, match="from 1"):
        rank_scores([1, 0])


def test_the_best_rank_counts_ties_against_the_right_record():
    assert best_rank([0.1, 0.9, 0.5], [1]) == 1
    assert best_rank([0.1, 0.9, 0.5], [0]) == 3
    assert best_rank([0.1, 0.9, 0.5, 0.7], [0, 3]) == 2
    assert best_rank([1.0, 1.0, 1.0], [0]) == 3
    assert best_rank([1.0, 1.0, 1.0], [0, 1]) == 2
    assert best_rank([math.nan, 0.0, -1.0], [0]) == 3


def test_correlations_of_cases_with_a_known_value():
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8]).value == pytest.approx(1)
    assert pearson([1, 2, 3], [1, 3, 2]).value == pytest.approx(0.5)
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6·4/(5·24).
    assert spearman([1, 2, 3, 10, 99], [5, 4, 9, 8, 70]).value == pytest.approx(0.8)
    assert spearman([1, 2, 3], [9, 4, 1]).value == pytest.approx(-1)
    for nothing in (pearson([1, 1, 1], [1, 2, 3]), spearman([1, 2], [1, 2])):
        assert nothing.value is None
        assert nothing.interval is None
    assert pearson([1, 2, 3], [1, 3, 2]).interval is None
    with pytest.raises(ValueError, match="no pairs"):
        pearson([1, 2], [1, 2, 3])


def test_equal_values_share_their_mean_rank():
    ranked = spearman([30, 10, 30, 20], [1, 2, 3, 5]).value
    assert ranked == pytest.approx(pearson([3.5, 1, 3.5, 2], [1, 2, 3, 4]).value)


def test_the_intervals_are_fishers_and_bonett_and_wrights():
    rng = np.random.default_rng(3)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    plain, ranked = pearson(x, y), spearman(x, y)
    assert plain.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    for correlation, variance in ((plain, 1.0), (ranked, 1 + ranked.value**2 / 2)):
        centre = math.atanh(correlation.value)
        half = 1.959963984540054 * math.sqrt(variance / 37)
        assert correlation.interval.low == pytest.approx(math.tanh(centre - half))
        assert correlation.interval.high == pytest.approx(math.tanh(centre + half))
        assert correlation.row()["interval"] == [
            correlation.interval.low,
            correlation.interval.high,
        ]


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_nineteen_of_twenty_intervals_hold_the_true_correlation(measure):
    rng = np.random.default_rng(5)
    true = 0.6
    # Spearman's coefficient of a normal distribution with Pearson's 0.6.
    wanted = true if measure is pearson else 6 / math.pi * math.asin(true / 2)
    held = 0
    for _ in range(400):
        x = rng.normal(size=60)
        y = true * x + math.sqrt(1 - true**2) * rng.normal(size=60)
        interval = measure(x, y).interval
        held += interval.low <= wanted <= interval.high
    assert 0.92 <= held / 400 <= 0.98
