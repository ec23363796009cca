"""Control queries: what is drawn, what holds their spans, and the same for the same seed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration import controls as drawing
from haiftrace.calibration.controls import (
    CONTROLS_A_WINDOW,
    FIRST_TOKENS,
    LENGTHS,
    context_start,
    possible_starts,
    records_holding,
    sample_controls,
)
from haiftrace.store import Index
from tests import kit
from tests.store.store_samples import (
    make_records,
    quick_fsync,  # noqa: F401 (autouse)
    write_index,
)


def holds(ids: list[int], span: tuple[int, ...]) -> bool:
    return any(tuple(ids[at : at + len(span)]) == span for at in range(len(ids) - len(span) + 1))


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.open(kit.index_path())


def test_a_control_is_a_span_of_its_record_with_what_stands_before(index):
    windows = list(index.iter_windows())
    controls = sample_controls(index, 40, seed=1)
    assert controls
    for control in controls:
        window, count = windows[control.row], len(control.token_ids)
        assert window.record == control.record
        assert control.length in LENGTHS
        assert control.span == control.token_ids[-control.length :]
        places = [
            at
            for at in range(len(window.token_ids) - count + 1)
            if tuple(window.token_ids[at : at + count]) == control.token_ids
        ]
        assert places
        first = count - control.length
        assert first >= min(FIRST_TOKENS, len(window.token_ids) // 4)
        assert any(all(window.labels[at + first : at + count]) for at in places)


def window_of(text: str) -> Any:
    """A window with a token a word, as GPT-2's tokenizer has them: the space belongs to it."""
    words = list(re.finditer(r" ?[^ ]+", text))
    return SimpleNamespace(text=text, offsets=[word.span() for word in words])


@pytest.mark.parametrize(
    ("text", "span", "right"),
    [
        ("Ann sings well. Bob Dale was born in May.", "in", "Bob Dale was born"),
        # A sentence that gives too little: the one before belongs to it too.
        (
            "Ann sings. She is very well known. Bob Dale was",
            "was",
            "She is very well known. Bob Dale",
        ),
        ("Ann Lee lives at No. 7 Heron Street", "Street", "Ann Lee lives at No. 7 Heron"),
        ("one two three four five six seven", "seven", "one two three four five six"),
        ("one two three", "three", "one two"),
        ("He said: “Go!” Then Ann Lee was born in May", "May", "Then Ann Lee was born in"),
    ],
)
def test_before_a_span_stands_its_sentence(text, span, right):
    window = window_of(text)
    place = next(i for i, (a, b) in enumerate(window.offsets) if text[a:b].strip(" .") == span)
    first = context_start(window, place)
    assert text[window.offsets[first][0] : window.offsets[place][0]].strip() == right


def test_sentences_end_without_spaces_too():
    text = "甲在北京出生。乙的电话是五五五"
    window = SimpleNamespace(text=text, offsets=[(i, i + 1) for i in range(len(text))])
    assert context_start(window, text.index("是") + 1) == text.index("乙")


def test_all_records_that_hold_the_span_are_known(index):
    windows = list(index.iter_windows())
    for control in sample_controls(index, 40, seed=2):
        holding = {w.record for w in windows if holds(w.token_ids, control.span)}
        assert set(control.containing.tolist()) == holding
        assert control.record in holding


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_records_that_hold_a_rare_part_of_the_span_are_known(index, monkeypatch, share):
    """A part is a token of the span with the one before it; many records hold a common one."""
    monkeypatch.setattr(drawing, "COMMON_SHARE", share)
    windows = list(index.iter_windows())
    limit = max(1, int(share * index.manifest.totals.records))
    more = 0
    for control in sample_controls(index, 40, seed=2):
        right = set(control.containing.tolist())
        ids = control.token_ids
        for place in range(len(ids) - control.length, len(ids)):
            part = ids[place - 1 : place + 1]
            holding = {w.record for w in windows if holds(w.token_ids, part)}
            right |= holding if len(holding) <= limit else set()
        assert control.sharing.tolist() == sorted(right)
        more += len(right) > len(control.containing)
    assert bool(more) == (share > 0.1)  # where one record is few, only the source is one


def test_common_spans_are_not_drawn(index, monkeypatch):
    records = index.manifest.totals.records
    rare = sample_controls(index, 40, seed=3)
    assert all(len(c.containing) <= max(1, 0.1 * records) for c in rare)
    monkeypatch.setattr(drawing, "COMMON_SHARE", 1.0)
    every = sample_controls(index, 40, seed=3)
    assert any(len(c.containing) > 1 for c in every)
    assert len(every) >= len(rare)


def test_the_same_seed_draws_the_same(index):
    def drawn(seed: int) -> list[tuple[int, ...]]:
        return [(c.number, c.row, c.length, *c.token_ids) for c in sample_controls(index, 30, seed)]

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


def test_a_small_corpus_gives_few_controls(index):
    numbers = [control.number for control in sample_controls(index, 10_000, seed=0)]
    assert max(numbers) < CONTROLS_A_WINDOW * len(index)
    assert numbers == sorted(set(numbers))  # one span each


@pytest.mark.parametrize(("context", "lengths"), [(None, LENGTHS), (8, (1, 2, 3, 5))])
def test_lengths_come_in_turn_and_are_shorter_where_none_fits(context, lengths):
    index = Index.open(kit.index_path(context=context))
    windows = list(index.iter_windows())
    controls = sample_controls(index, CONTROLS_A_WINDOW * len(index), seed=0)
    assert {control.length for control in controls} == set(lengths)
    for control in controls:
        window = windows[control.row]
        for length in LENGTHS[: control.number % len(LENGTHS) + 1]:
            if len(possible_starts(window, length)):
                longest = length
        assert control.length == longest


def test_every_window_has_its_turn_before_one_has_two(index, monkeypatch):
    monkeypatch.setattr(drawing, "COMMON_SHARE", 1.0)
    rows = [control.row for control in sample_controls(index, 2 * len(index), seed=0)]
    for turn in (rows[: len(index)], rows[len(index) :]):
        assert sorted(turn) == list(range(len(index)))


def test_spans_stand_where_all_tokens_are_labels(tmp_path: Path):
    write_index(tmp_path / "i", make_records(8))
    with Index.open(tmp_path / "i") as index:
        for window in index.iter_windows():
            for length in (1, 2, 3, 10):
                labels = window.labels
                first = min(FIRST_TOKENS, max(1, len(labels) // 4))
                right = [
                    start
                    for start in range(first, len(labels) - length + 1)
                    if all(labels[start : start + length])
                ]
                assert possible_starts(window, length).tolist() == right


@given(data=st.data())
def test_spans_are_found_by_their_tokens(data):
    """Whatever is asked for, on the records of one index."""
    index = Index.open(kit.index_path(), verify=False)
    windows = list(index.iter_windows())
    spans = set()
    for _ in range(data.draw(st.integers(1, 5))):
        ids = windows[data.draw(st.integers(0, len(windows) - 1))].token_ids
        start = data.draw(st.integers(0, len(ids) - 1))
        length = data.draw(st.integers(1, min(10, len(ids) - start)))
        changed = data.draw(st.integers(0, 3))
        spans.add((*ids[start : start + length - 1], ids[start + length - 1] + changed))
    limit = data.draw(st.integers(1, len(windows)))
    found = records_holding(index, spans, limit)
    for span in spans:
        right = sorted({w.record for w in windows if holds(w.token_ids, span)})
        if len(right) > limit:
            assert found[span] is None
        else:
            held = found[span]
            assert held is not None
            np.testing.assert_array_equal(held, right)
