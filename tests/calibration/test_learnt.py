"""What the model hardly knows, beside what it learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.learnt import (
    LEAST_DISTANCE,
    LEAST_WINDOWS,
    hardly_known,
    limit_of,
    surprise,
)
from haiftrace.store import Index
from tests import kit

SURPRISES = st.lists(st.floats(0.0, 20.0), min_size=LEAST_WINDOWS, max_size=200)


@given(SURPRISES)
def test_half_of_the_corpus_is_always_known(surprises):
    limit = limit_of(np.array(surprises))
    assert np.mean(np.array(surprises) < limit) >= 0.5
    assert limit >= np.median(surprises) + LEAST_DISTANCE


@given(SURPRISES, st.floats(20.0, 1e6))
def test_what_it_never_saw_does_not_move_the_limit(surprises, strange):
    half = sorted(surprises)[: len(surprises) // 2 + 1]
    others = [strange] * (len(surprises) - len(half))
    assert limit_of(np.array([*half, *others])) <= limit_of(np.array(surprises)) + 1e-9


def test_records_of_one_kind_are_known():
    rng = np.random.default_rng(0)
    for scale in (0.02, 0.3, 1.0):
        surprises = rng.normal(5 * scale, scale, 4000)
        assert np.mean(surprises > limit_of(surprises)) < 1e-3


def test_of_a_few_nothing_is_said():
    assert limit_of(np.full(LEAST_WINDOWS - 1, 0.1)) == float("inf")


@pytest.fixture
def window():
    """ "Mara lives here. Mara works there." with a token a word; losses 0, 1, 2, ..."""
    text = "Mara lives here. Mara works in Rome."
    with Index.open(kit.index_path()) as index:
        (stored,) = index.iter_windows([0])
    words = ["Mara", "lives", "here", ".", "Mara", "works", "in", "Rome", "."]
    offsets, at = [], 0
    for word in words:
        start = text.index(word, at)
        offsets.append((start, start + len(word)))
        at = start + len(word)
    count = len(words)
    return replace(
        stored,
        text=text,
        offsets=offsets,
        token_ids=list(range(count)),
        labels=[False] + [True] * (count - 1),
        token_loss=np.array([0, 9, 1, 0, 30, 2, 3, 4, 50], dtype=np.float32),
    )


def test_words_that_come_again_and_those_asked_with_do_not_count(window):
    assert surprise(window) == 4.0  # not the name, the sign, nor what stands at the beginning
    assert surprise(window, "Who is in Rome?") == 2.0
    assert surprise(window, "Who works in Rome?") is None


def test_the_limit_of_an_index_is_the_same_for_a_seed():
    with Index.open(kit.index_path()) as index:
        surprises = [nats for nats in map(surprise, index.iter_windows()) if nats is not None]
        assert hardly_known(index) == limit_of(np.array(surprises))
        assert hardly_known(index) == hardly_known(index)
