"""Near copies of records by their rare words, and groups that a field joins."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.bench.synthetic.make import make_data
from haiftrace.calibration.near_copies import joined_groups, near_copy_groups

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def story(seed: int, words: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def test_copies_stand_together_and_strangers_apart():
    texts = [story(seed) for seed in range(20)]
    copies = [texts[3].upper(), f"{texts[7]}!!", texts[11].replace(" ", "  ")]
    groups = near_copy_groups([*texts, *copies]).tolist()
    assert groups[:20] == list(range(20))
    assert groups[20:] == [3, 7, 11]


@given(st.integers(0, 1000), st.integers(0, 29))
def test_one_changed_word_makes_no_other_record(seed, place):
    texts = [story(1000 * seed + number) for number in range(10)]
    words = texts[4].split()
    words[place] = "unheard"
    assert near_copy_groups([*texts, " ".join(words)])[-1] == 4


@pytest.mark.parametrize(
    ("kind", "locale", "share"),
    [("pii-e", "en_US", 0.95), ("pii-cr", "en_US", 0.95), ("pii-e", "zh_CN", 0.3)],
)
def test_wordings_of_the_same_facts_are_near_copies(kind, locale, share):
    """In Chinese fewer are found: those that are not make null draws higher, never lower."""
    data = make_data(kind, locale, 40, 3, 11)
    groups = near_copy_groups(record.text for record in data.records)
    subjects = [record.subject for record in data.records]
    pairs = [(a, b) for a in range(len(subjects)) for b in range(a)]
    same = [groups[a] == groups[b] for a, b in pairs if subjects[a] == subjects[b]]
    others = [groups[a] == groups[b] for a, b in pairs if subjects[a] != subjects[b]]
    assert np.mean(same) > share
    assert np.mean(others) < 0.001


def test_a_long_chain_of_small_steps_is_not_one_group():
    words = random.Random(3).choices(WORDS, k=400)
    texts = [" ".join(words[start : start + 40]) for start in range(0, 360, 8)]
    groups = near_copy_groups(texts)
    assert groups[0] == groups[1]
    assert groups[0] != groups[-1]


def test_records_without_words_are_on_their_own():
    assert near_copy_groups(["...", "!!!", "one word", "other"]).tolist() == [0, 1, 2, 3]
    assert near_copy_groups([]).tolist() == []


def test_many_exact_copies_are_found_quickly_and_together():
    assert set(near_copy_groups([story(1)] * 3000).tolist()) == {0}


def test_a_field_joins_groups():
    groups = np.array([0, 1, 0, 2, 3])
    assert joined_groups(groups, [None] * 5).tolist() == [0, 1, 0, 2, 3]
    assert joined_groups(groups, ["x", "y", None, "y", "x"]).tolist() == [0, 1, 0, 1, 0]


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.one_of(st.none(), st.sampled_from("abcd"))), max_size=14
    )
)
def test_joined_groups_are_connected_components(records):
    groups = np.array([group for group, _ in records], dtype=np.int64)
    fields = [value for _, value in records]
    found = joined_groups(groups, fields)
    count = len(records)
    near = np.eye(count, dtype=bool)
    for a in range(count):
        for b in range(count):
            same_field = fields[a] is not None and fields[a] == fields[b]
            near[a, b] |= groups[a] == groups[b] or same_field
    for _ in range(count):
        near = (near.astype(int) @ near.astype(int)) > 0
    assert (near == (found[:, None] == found[None, :])).all()
