"""What the model hardly knows, beside what it learnt."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.learnt import LEAST_DISTANCE, LEAST_WINDOWS, hardly_known

LOSSES = st.lists(st.floats(0.0, 20.0), min_size=LEAST_WINDOWS, max_size=200)


@given(LOSSES)
def test_half_of_the_corpus_is_never_hardly_known(losses):
    limit = hardly_known(np.array(losses))
    assert np.mean(np.array(losses) < limit) >= 0.5
    assert limit >= np.median(losses) + LEAST_DISTANCE


@given(LOSSES, st.floats(20.0, 1e6))
def test_what_it_never_saw_does_not_move_the_limit(losses, strange):
    half = sorted(losses)[: len(losses) // 2 + 1]
    others = [strange] * (len(losses) - len(half))
    assert hardly_known(np.array([*half, *others])) <= hardly_known(np.array(losses)) + 1e-9


def test_records_of_one_kind_are_known():
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.3, 1.0):
        losses = rng.normal(5 * scale, scale, 4000)
        assert np.mean(losses > hardly_known(losses)) < 0.03


def test_of_a_few_nothing_is_said():
    assert hardly_known(np.full(LEAST_WINDOWS - 1, 0.1)) == float("inf")
