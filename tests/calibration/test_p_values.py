"""P-values, thresholds, power, q-values, histograms and how far a record stands out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.p_values import (
    NEAREST,
    REACHING,
    Margin,
    Margins,
    RecordScores,
    histogram,
    levels_apart,
    nearest_count,
    p_value,
    power,
    q_values,
    resolves,
    threshold,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)
# Few values, so that ties are common.
few = st.integers(-3, 3).map(float)
nulls = st.lists(st.one_of(numbers, few), max_size=60).map(np.array)
alphas = st.floats(0.005, 0.5)
shares = st.floats(0, 1)


@given(nulls, st.one_of(numbers, few))
def test_a_p_value_counts_the_draws_that_are_as_high(null, value):
    assert p_value(value, null) == (1 + sum(draw >= value for draw in null)) / (1 + len(null))


@given(nulls, numbers, numbers)
def test_a_higher_value_has_no_larger_p(null, a, b):
    assert p_value(max(a, b), null) <= p_value(min(a, b), null)


def test_an_undefined_value_is_never_evidence():
    assert p_value(float("nan"), np.zeros(0)) == 1.0


@given(nulls, st.one_of(numbers, few), alphas)
def test_the_threshold_is_what_separates_p_at_alpha(null, value, alpha):
    limit = threshold(null, alpha)
    if limit is None:
        assert p_value(value, null) > alpha or not len(null)
        assert not resolves(len(null), alpha) or not len(null)
    else:
        assert (value > limit) == (p_value(value, null) <= alpha + 1e-12)


@given(st.lists(numbers, min_size=1, max_size=40, unique=True), alphas)
def test_draws_of_the_null_itself_keep_the_level(values, alpha):
    """Leave one out: the share of exchangeable draws with p ≤ alpha is at most alpha."""
    draws = np.array(values)
    small = [p_value(value, np.delete(draws, place)) <= alpha for place, value in enumerate(draws)]
    assert np.mean(small) <= alpha + 1e-12


def test_how_many_draws_resolve_alpha():
    assert resolves(99, 0.01)
    assert not resolves(98, 0.01)


def test_power_is_the_share_above_the_threshold():
    null = np.arange(99.0)
    assert threshold(null, 0.01) == 98.0
    assert power(np.array([98.0, 98.5, 200.0, 0.0]), null, 0.01) == 0.5
    assert power(np.array([200.0]), null[:50], 0.01) == 0.0


@given(st.lists(shares, max_size=20))
def test_q_values_by_definition(p_values):
    """q_(i) = min over j ≥ i of p_(j) n / j, and 1 at most."""
    count = len(p_values)
    ordered = sorted(p_values)
    for p, q in zip(p_values, q_values(p_values), strict=True):
        place = ordered.index(p)
        later = (ordered[j] * count / (j + 1) for j in range(place, count))
        assert q == pytest.approx(min(1.0, *later), abs=1e-12)
        assert p <= q + 1e-15


@given(st.lists(shares, min_size=1, max_size=20), shares)
def test_discoveries_are_those_of_the_step_up_procedure(p_values, rate):
    count = len(p_values)
    ordered = sorted(p_values)
    passing = [i for i, p in enumerate(ordered, 1) if p * count / i <= rate]
    assert sum(q <= rate for q in q_values(p_values)) == (max(passing) if passing else 0)


def test_a_single_p_value_is_its_own_q():
    assert q_values([0.03]) == [0.03]
    assert q_values([]) == []


@given(st.lists(st.one_of(numbers, few), min_size=1, max_size=50).map(np.array))
def test_a_histogram_counts_every_value(values):
    edges, counts = histogram(values)
    assert len(edges) == len(counts) + 1
    assert sum(counts) == len(values)
    assert list(edges) == sorted(edges)
    assert edges[0] <= values.min()
    assert edges[-1] >= values.max()


def test_a_histogram_of_nothing_is_empty():
    assert histogram(np.zeros(0)) == ((), ())


def field(exact, groups, relative=True) -> RecordScores:
    return RecordScores(np.array(exact, dtype=float), np.array(groups), relative)


def test_a_margin_is_over_the_best_of_a_few_other_groups():
    scores = field([0.9, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1, 2, 3, 4, 5])
    assert scores.rivals(np.arange(8) > 1).tolist() == [0.6, 0.4, 0.3, 0.2]
    assert scores.margin(0).level == pytest.approx(0.375)
    assert scores.margin(0).value == pytest.approx(0.9 / 0.375 - 1)
    assert scores.margin(2).value == pytest.approx(0.6 / np.mean([0.9, 0.4, 0.3, 0.2]) - 1)
    few = field([0.9, 0.5, 0.1], [0, 1, 1])
    assert few.margin(0) == Margin(pytest.approx(0.8), 0.5)


def test_scores_of_either_sign_have_a_margin_that_is_a_difference():
    signed = field([0.9, 0.3, -0.1, -0.5], [0, 1, 2, 3], relative=False)
    assert signed.statistic == "margin"
    assert signed.margin(0) == Margin(pytest.approx(1.0), pytest.approx(-0.1))
    strengths = field([0.9, 0.3, 0.1, 0.2], [0, 1, 2, 3])
    assert strengths.statistic == "relative margin"
    assert strengths.margin(0).value == pytest.approx(0.9 / 0.2 - 1)


def test_where_no_record_made_an_answer_likelier_a_margin_is_huge():
    assert field([0.9, 0.0, 0.0], [0, 1, 2]).margin(0).value > 1e8


def test_what_is_left_out_neither_wins_nor_counts():
    scores = field([0.9, 0.8, 0.3, 0.1, -0.1, 0.2], [0, 0, 1, 2, 3, 4])
    left_out = np.array([True, True, False, False, False, False])
    assert scores.first() == 0
    assert scores.first(left_out) == 2
    without = field([0.3, 0.1, -0.1, 0.2], [1, 2, 3, 4])
    assert scores.margin(2, left_out) == without.margin(0)


def test_records_that_were_not_scored_do_not_count():
    none = -np.inf
    scores = field([0.9, none, 0.3, none], [0, 1, 2, 3])
    assert scores.margin(0) == Margin(pytest.approx(2.0), 0.3)
    assert np.isnan(scores.margin(1).value)
    assert scores.first(np.array([True, False, True, False])) is None


def test_a_corpus_of_one_group_has_no_margin():
    assert np.isnan(field([0.9, 0.8], [0, 0]).margin(0).value)


@given(
    st.lists(st.floats(0.01, 1), min_size=6, max_size=12, unique=True),
    st.floats(0.01, 100),
    st.permutations(range(6)),
)
def test_a_margin_depends_neither_on_order_nor_on_scale(values, factor, order):
    groups = list(range(len(values)))
    order = [*order, *range(6, len(values))]
    plain = field(values, groups)
    shuffled = field([values[i] for i in order], groups)
    scaled = field([value * factor for value in values], groups)
    first = plain.first()
    assert first is not None
    assert order[int(shuffled.first() or 0)] == first
    right = plain.margin(first)
    assert shuffled.margin(order.index(first)).value == pytest.approx(right.value)
    assert scaled.margin(first).value == pytest.approx(right.value, rel=1e-6)
    assert scaled.margin(first).level == pytest.approx(right.level * factor)


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 8)), max_size=40),
    st.integers(1, 12),
)
def test_the_nearest_are_so_many_and_all_that_are_as_near(distances, count):
    """None stands for an undefined sample."""
    undefined = np.array([distance is None for distance in distances], dtype=bool)
    margins = Margins(np.where(undefined, np.nan, 1.0), np.ones(len(distances)))
    near = margins.nearest(np.array([d or 0 for d in distances], dtype=float), count).tolist()
    defined = sorted((d, place) for place, d in enumerate(distances) if d is not None)
    right = defined
    if len(defined) > count:
        farthest = defined[count - 1][0]
        right = [(d, place) for d, place in defined if d <= farthest]
    assert sorted(near) == sorted(place for _, place in right)


def test_levels_are_compared_by_their_ratio():
    """1.9 is nearer to 1 than 0.5 is, though the difference is larger."""
    apart = levels_apart(np.array([1.0, 1.9, 0.5, 2.0]), 1.0)
    assert np.argsort(apart, kind="stable").tolist() == [0, 1, 2, 3]
    assert apart[2] == pytest.approx(apart[3])
    # Below zero all levels are the same: nothing speaks for the answer.
    assert levels_apart(np.array([-1.0, -0.1, 0.0]), -5.0).tolist() == [0.0, 0.0, 0.0]
    # Of a level that is not known, all are as near.
    assert levels_apart(np.array([0.1, 7.0]), float("nan")).tolist() == [0.0, 0.0]


def test_a_smaller_alpha_takes_more_samples():
    """So many that it lets a few of them reach the margin."""
    assert nearest_count(0.05) == nearest_count(0.01) == NEAREST
    for alpha, count in ((0.005, 400), (0.001, 2000)):
        assert nearest_count(alpha) == count
        assert count * alpha == pytest.approx(REACHING)
