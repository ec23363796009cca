"""Tokens merged into words, with their evidence."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.findings import RecordEvidence, Source, TokenEvidence
from haiftrace.reports import merge_words
from tests.reports.record_samples import CHINESE, ENGLISH, HOSTILE, Piece, record_of, tokens_of


def record(text: str, pieces: list[Piece], **more: object) -> RecordEvidence:
    tokens = tokens_of(text, pieces)
    score = sum(token.evidence for token in tokens)
    return RecordEvidence(1, "r", Source("c.jsonl", 1), score, 0.5, text, tokens)


def words_of(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [word.text for word in merge_words(record(text, [(*span, 0.1) for span in spans]))]


def test_pieces_of_a_word_are_merged_whoever_owns_the_space() -> None:
    text = "Call 555-0134, now"
    with_space = [(0, 4), (4, 8), (8, 9), (9, 13), (13, 14), (14, 18)]
    without = [(0, 4), (5, 8), (8, 9), (9, 13), (13, 14), (15, 18)]
    for spans in (with_space, without):
        words = merge_words(record(text, [(*span, 0.5) for span in spans]))
        assert [(word.text, word.start, word.end) for word in words] == [
            ("Call", 0, 4),
            ("555-0134,", 5, 14),
            ("now", 15, 18),
        ]
        assert [word.evidence for word in words] == [0.5, 2.0, 0.5]
        assert [word.loss for word in words] == [0.0, 0.25 + 0.5 + 0.75, 0.25]


def test_chinese_tokens_are_words_and_numbers_in_it_are_merged() -> None:
    text = "电话是138-0013。"
    assert words_of(text, [(0, 2), (2, 3), (3, 6), (6, 7), (7, 11), (11, 12)]) == [
        "电话",
        "是",
        "138-0013",
        "。",
    ]


@pytest.mark.parametrize("text", ["สวัสดี", "こんにちは", "かな"])
def test_other_scripts_without_spaces_are_cut_by_token_but_never_before_a_mark(text: str) -> None:
    words = words_of(text, [(index, index + 1) for index in range(len(text))])
    assert "".join(words) == text
    assert len(words) > 1
    assert not any(unicodedata.category(word[0]).startswith("M") for word in words)


def test_korean_has_spaces_and_is_merged_by_them() -> None:
    assert words_of("전화 번호", [(0, 1), (1, 2), (2, 4), (4, 5)]) == ["전화", "번호"]


def test_byte_pieces_of_one_character_are_one_word() -> None:
    text = "伟 😀!"
    spans = [(0, 1), (0, 1), (0, 1), (1, 3), (2, 3), (2, 3), (2, 3), (3, 4)]
    words = merge_words(record(text, [(*span, 1.0) for span in spans]))
    assert [(word.text, word.evidence) for word in words] == [("伟", 3.0), ("😀!", 5.0)]


def test_an_emoji_of_several_code_points_is_one_word() -> None:
    text = "和🏃🏽‍♂️跑"
    spans = [(index, index + 1) for index in range(len(text))]
    assert words_of(text, spans) == ["和", "🏃🏽‍♂️", "跑"]


def test_special_tokens_keep_their_place_and_their_evidence() -> None:
    text = "ab cd"
    tokens = tokens_of(text, [(0, 0, 1.0), (0, 2, 2.0), (3, 5, 4.0), (0, 0, 8.0)])
    tokens = (*tokens[:3], TokenEvidence(3, 2, "</s>", 0, 0, 0.0, 0.0, 8.0))
    words = merge_words(RecordEvidence(1, "r", Source("c", 1), 15.0, 1.0, text, tokens))
    assert [(word.text, word.evidence) for word in words] == [
        ("", 1.0),
        ("ab", 2.0),
        ("cd", 4.0),
        ("</s>", 8.0),
    ]
    assert [word.start == word.end for word in words] == [True, False, False, True]


def test_white_space_tokens_stand_alone() -> None:
    assert words_of("a \n\nb", [(0, 1), (1, 2), (2, 4), (4, 5)]) == ["a", " ", "\n\n", "b"]


def test_offsets_beyond_the_text_cover_none_and_lose_nothing() -> None:
    words = merge_words(record("ab", [(0, 2, 1.0), (2, 9, 2.0), (7, 9, 4.0)]))
    assert sum(word.evidence for word in words) == 7.0
    assert words[0].text == "ab"


def test_text_that_no_token_covers_is_in_no_word() -> None:
    assert words_of("left covered right", [(5, 12)]) == ["covered"]
    assert merge_words(record("nothing", [])) == []


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[Piece]]:
    """A text with any tokens: overlapping, out of order, empty, beyond the end."""
    text = draw(
        st.text(st.sampled_from("ab é1-张伟。 \n\t😀\u200d\u0301\ufe0fส\u0e35"), max_size=30)
    )
    offset = st.integers(0, len(text) + 2)
    weight = st.floats(-10, 10)
    pieces = draw(st.lists(st.tuples(offset, offset, weight), max_size=25))
    return text, [(min(a, b), max(a, b), weight) for a, b, weight in pieces]


@given(tokenised())
def test_words_sum_to_the_tokens_and_do_not_overlap(case: tuple[str, list[Piece]]) -> None:
    text, pieces = case
    given_record = record(text, pieces)
    words = merge_words(given_record)
    for name in ("evidence", "loss"):
        total = math.fsum(getattr(token, name) for token in given_record.tokens)
        scale = math.fsum(abs(getattr(token, name)) for token in given_record.tokens)
        assert math.fsum(getattr(word, name) for word in words) == pytest.approx(
            total, abs=1e-12 * scale + 1e-300
        )
    covering = [word for word in words if word.start < word.end]
    for left, right in pairwise(covering):
        assert left.end <= right.start
    assert all(word.text == text[word.start : word.end] for word in covering)
    for token in given_record.tokens:
        for index in range(token.start, min(token.end, len(text))):
            if not text[index].isspace():
                assert sum(word.start <= index < word.end for word in covering) == 1


@given(tokenised(), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(
    case: tuple[str, list[Piece]], rng: random.Random
) -> None:
    text, pieces = case
    straight = record(text, pieces)
    tokens = list(straight.tokens)
    rng.shuffle(tokens)
    shuffled = RecordEvidence(
        1, "r", straight.source, straight.score, straight.cosine, text, tuple(tokens)
    )
    assert merge_words(shuffled) == merge_words(straight)


@given(
    st.text(st.sampled_from("abc12-.,!é😀 \n\t"), max_size=40), st.randoms(use_true_random=False)
)
def test_spaced_text_is_cut_as_split_cuts_it(text: str, rng: random.Random) -> None:
    spans: list[tuple[int, int]] = []
    for match in re.finditer(r"\s*\S+|\s+", text):
        start, end = match.span()
        first = start + len(match[0]) - len(match[0].lstrip()) + 1
        cuts = sorted({start, end, *(cut for cut in range(first, end) if rng.random() < 0.5)})
        spans += list(pairwise(cuts))
    words = [word for word in words_of(text, spans) if not word.isspace()]
    assert words == text.split()


def test_the_samples_sum_to_their_scores() -> None:
    for text in (ENGLISH, CHINESE, HOSTILE):
        sample = record_of(text)
        assert sum(word.evidence for word in merge_words(sample)) == pytest.approx(sample.score)
