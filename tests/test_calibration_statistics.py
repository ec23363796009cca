"""P-values, thresholds, power, q-values, histograms and the statistics of a ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.statistics import (
    STATISTICS,
    Field,
    histogram,
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


def field(exact, groups, background=None) -> Field:
    exact = np.array(exact, dtype=float)
    return Field(exact, exact if background is None else np.array(background), np.array(groups))


def test_the_statistics_of_a_record_leave_its_near_copies_out():
    scores = field([0.9, 0.8, 0.3, 0.1, -0.1, 0.2], [0, 0, 1, 2, 3, 4])
    rest = np.array([0.3, 0.1, -0.1, 0.2])
    spread = 1.4826 * np.median(np.abs(rest - 0.15))
    found = scores.values(0)
    assert found["margin"] == pytest.approx(0.6)
    assert found["score"] == 0.9
    assert found["z-score"] == pytest.approx((0.9 - 0.15) / spread)
    assert found["relative margin"] == pytest.approx((0.9 - 0.125) / 0.125)


def test_a_relative_margin_is_over_the_best_of_a_few_other_groups():
    scores = field([0.9, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1], [0, 1, 1, 2, 3, 4, 5])
    assert scores.best(np.arange(7) > 0).tolist() == [0.6, 0.4, 0.3, 0.2]
    assert scores.values(0)["relative margin"] == pytest.approx(0.9 / 0.375 - 1)
    few = field([0.9, 0.5, 0.1], [0, 1, 1])
    assert few.values(0)["relative margin"] == pytest.approx(0.9 / 0.5 - 1)
    assert np.isnan(field([0.9, 0.3, -0.1, -0.4], [0, 1, 2, 3]).values(0)["relative margin"])


def test_what_is_left_out_neither_wins_nor_counts():
    scores = field([0.9, 0.8, 0.3, 0.1, -0.1, 0.2], [0, 0, 1, 2, 3, 4])
    left_out = np.array([True, True, False, False, False, False])
    assert scores.first() == 0
    assert scores.first(left_out) == 2
    without = field([0.3, 0.1, -0.1, 0.2], [1, 2, 3, 4])
    assert scores.values(2, left_out) == pytest.approx(without.values(0))


def test_records_that_were_not_scored_have_no_exact_part():
    none = -np.inf
    scores = field([0.9, none, 0.3, none], [0, 1, 2, 3], [0.8, 0.1, 0.2, 0.0])
    assert scores.values(0)["margin"] == pytest.approx(0.6)
    assert scores.values(0)["z-score"] == pytest.approx(0.8 / (1.4826 * 0.1))
    assert all(np.isnan(value) for value in scores.values(1).values())
    assert scores.first(np.array([True, False, True, False])) is None


def test_a_corpus_of_one_group_has_no_statistics():
    assert all(np.isnan(value) for value in field([0.9, 0.8], [0, 0]).values(0).values())


@given(
    st.lists(st.floats(-1, 1), min_size=6, max_size=12, unique=True),
    st.floats(0.01, 100),
    st.permutations(range(6)),
)
def test_statistics_do_not_depend_on_order_and_two_not_on_scale(values, factor, order):
    groups = list(range(len(values)))
    order = [*order, *range(6, len(values))]
    plain = field(values, groups)
    shuffled = field([values[i] for i in order], groups)
    scaled = field([value * factor for value in values], groups)
    first = plain.first()
    assert first is not None
    assert order[int(shuffled.first() or 0)] == first
    for statistic in STATISTICS:
        one = plain.values(first)[statistic]
        other = shuffled.values(order.index(first))[statistic]
        np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(
        plain.values(first)["z-score"], scaled.values(first)["z-score"], rtol=1e-6
    )
    strengths = [value + 2 for value in values]
    one, other = (
        field([value * by for value in strengths], groups).values(first)["relative margin"]
        for by in (1.0, factor)
    )
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)


def test_a_shortlist_alone_has_no_median():
    none = -np.inf
    found = field([0.9, none, 0.3, none], [0, 1, 2, 3]).values(0)
    assert found["margin"] == pytest.approx(0.6)
    assert np.isnan(found["z-score"])
    assert found["relative margin"] == pytest.approx(0.9 / 0.3 - 1)
