"""Records to token windows: labels, loss on the response, and the split of long records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus.windows import windows_of
from haiftrace.errors import CorpusError
from tests.corpus.windows_kit import (
    byte_level,
    labelled_text,
    only_window,
    record,
    word_level,
    words,
)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_record_of_one_token_has_no_label(text):
    assert windows_of(record(text), word_level(), 10) == []


def test_the_first_token_after_a_special_one_is_a_label():
    assert only_window(record("a"), byte_level("bos"), 10).labels == [False, True]


@pytest.mark.parametrize("context", [-1, 0, 1])
def test_a_context_without_room_for_a_label(context):
    with pytest.raises(CorpusError, match="holds no label"):
        windows_of(words(3), word_level(), context)


# Loss on the response


def test_the_response_alone_carries_loss():
    prompt, response = "Phone of Ann Lee?", " 555-0100, 北京 😀"
    pair = record(prompt + response, ((len(prompt), len(prompt + response)),))
    for tokenizer in (byte_level(), byte_level("bos"), byte_level(trim_offsets=True)):
        window = only_window(pair, tokenizer, 100, loss_on="response")
        assert "".join(labelled_text(window).split()) == "".join(response.split())


def test_a_token_across_the_seam_is_a_label():
    pair = record("The quick brown", ((7, 15),))  # the response begins inside "quick"
    window = only_window(pair, word_level(), 100, loss_on="response")
    assert window.labels == [False, True, True]


def test_the_records_first_token_is_never_a_label():
    pair = record("quick brown", ((0, 11),))
    assert only_window(pair, word_level(), 100, loss_on="response").labels == [False, True]


@pytest.mark.parametrize(("special", "append"), [("bos eos", False), ("bos", True)])
def test_the_end_of_the_response_is_part_of_it(special, append):
    ends = record("Q: A", ((3, 4),))
    window = only_window(ends, byte_level(special), 100, loss_on="response", append_eos=append)
    assert window.token_ids[-1] == 1
    assert window.labels[-1]
    goes_on = record("Q: A. more", ((3, 4),))
    window = only_window(goes_on, byte_level(special), 100, loss_on="response", append_eos=append)
    assert not window.labels[-1]


def test_an_empty_response_has_no_label():
    empty = record("Phone of Ann?", ((13, 13),))
    for append in (False, True):
        assert not windows_of(empty, byte_level("bos"), 9, "response", append_eos=append)


def test_plain_text_has_no_response():
    with pytest.raises(CorpusError, match=r"a\.jsonl:3: a record of plain text"):
        windows_of(record("555-0199"), byte_level(), 9, loss_on="response")


def test_windows_without_a_label_are_left_out():
    pair = record(words(40).text, ((70, 79),))  # the last five of 40 words
    windows = windows_of(pair, word_level(), 8, loss_on="response")
    assert [(w.window, w.windows, w.start) for w in windows] == [(0, 2, 28), (1, 2, 32)]
    assert [w.start + i for w in windows for i, on in enumerate(w.labels) if on] == [*range(35, 40)]


# Windows


def test_a_long_record_in_windows():
    windows = windows_of(words(10), word_level(), 4)
    assert [w.start for w in windows] == [0, 2, 4, 6]
    assert [w.labels for w in windows] == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, True, True],
        [False, False, True, True],
    ]


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, 70),
    context=st.integers(2, 40),
    edges=st.none() | st.lists(st.integers(0, 140), max_size=6, unique=True),
)
def test_each_label_counts_once_where_it_has_the_most_context(length, context, edges):
    spans = None
    if edges is not None:
        spans = tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
    item = record(words(length).text, spans)
    tokenizer = word_level()
    ids = tokenizer(item.text)["input_ids"]
    offsets = tokenizer(item.text, return_offsets_mapping=True)["offset_mapping"]
    windows = windows_of(item, tokenizer, context, "all" if spans is None else "response")

    expected = [
        i
        for i, (s, e) in enumerate(offsets)
        if i and (spans is None or any(s < end and e > start for start, end in spans))
    ]
    starts = [0]
    while starts[-1] + context < length:
        starts.append(starts[-1] + context // 2)
    placed = [(w.start + i, i) for w in windows for i, label in enumerate(w.labels) if label]
    assert [position for position, _ in placed] == expected
    for position, before in placed:
        most = max(position - s for s in starts if s <= position < s + context)
        assert before == most
    for index, window in enumerate(windows):
        assert (window.window, window.windows) == (index, len(windows))
        assert window.start in starts
        assert len(window.token_ids) <= context
        stop = window.start + len(window.token_ids)
        assert window.token_ids == ids[window.start : stop]
        assert window.offsets == offsets[window.start : stop]
        assert len(window.labels) == len(window.token_ids)
        assert any(window.labels)
        assert not window.labels[0]
        assert window.text == item.text


def test_a_huge_line_is_split_in_linear_time():
    windows = windows_of(words(100_000), word_level(), 64)
    assert sum(sum(w.labels) for w in windows) == 99_999
    assert windows[0].windows == len(windows)
