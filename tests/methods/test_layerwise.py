"""The layerwise rule's arithmetic against loops over its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from haiftrace.methods.layerwise import (
    LEAST_DEVIATION,
    Reference,
    learnt_weights,
    usual_surprise,
)

losses = st.lists(
    st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=40), min_size=1, max_size=4
)


def slow_surprise(window: list[float]) -> list[float]:
    """By the rule's formula."""
    found, surprised = [], 0.0
    for loss in window:
        surprised = loss + 0.8 * surprised
        found.append(surprised)
    return found


def flat(windows: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Losses of all labels, and the window of each."""
    window_J = np.repeat(np.arange(len(windows)), [len(window) for window in windows])
    return np.array([loss for window in windows for loss in window]), window_J


@settings(deadline=None)
@given(losses, st.floats(0, 50))
def test_a_token_counts_less_where_it_surprises_more_than_is_usual(windows, usual):
    slow = [
        math.exp(-max(0.0, surprised - usual) / 4)
        for window in windows
        for surprised in slow_surprise(window)
    ]
    assert learnt_weights(*flat(windows), usual) == pytest.approx(slow, rel=1e-9, abs=1e-300)


@settings(deadline=None)
@given(losses)
def test_usual_is_the_median_of_the_windows_means(windows):
    means = [sum(slow_surprise(window)) / len(window) for window in windows]
    assert usual_surprise(*flat(windows)) == pytest.approx(float(np.median(means)), rel=1e-9)


def test_windows_do_not_take_from_each_other():
    weights = learnt_weights(*flat([[9.0], [0.0, 0.0, 8.0]]), 1.0)
    assert weights.tolist() == pytest.approx([math.exp(-2), 1.0, 1.0, math.exp(-7 / 4)])


def test_no_labels():
    none = np.zeros(0)
    assert usual_surprise(none, none.astype(int)) == 0.0
    assert learnt_weights(none, none.astype(int), 0.0).shape == (0,)


@settings(deadline=None)
@given(arrays.arrays(np.float64, (7, 3, 2), elements=st.floats(0, 1)))
def test_shares_are_squares_of_positive_z_scores(pooled_WQL):
    reference = Reference.of(pooled_WQL)
    shares = reference.contributions(pooled_WQL)
    for (w, q, layer), share in np.ndenumerate(shares):
        column = pooled_WQL[:, q, layer].tolist()
        median = sorted(column)[3]
        mean = sum(column) / 7
        deviation = math.sqrt(sum((y - mean) ** 2 for y in column) / 7)
        z = (pooled_WQL[w, q, layer] - median) / max(deviation, LEAST_DEVIATION)
        assert share == pytest.approx(max(0.0, z) ** 2, rel=1e-9, abs=1e-12)


def test_a_reference_of_some_tokens_is_theirs():
    pooled_WQL = np.random.default_rng(0).random((9, 4, 3))
    full = Reference.of(pooled_WQL)
    some = Reference.of(pooled_WQL[:, [3, 1]])
    chosen = full.subset([3, 1])
    assert np.array_equal(chosen.median_QL, some.median_QL)
    assert np.array_equal(chosen.deviation_QL, some.deviation_QL)
