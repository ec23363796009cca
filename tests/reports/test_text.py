"""What all reports share: inert text, words with evidence, numbers, the flow of lines."""

from __future__ import annotations

import math
import random
import re
import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from haiftrace.findings import RecordEvidence, Source, TokenEvidence
from haiftrace.reports import merge_words
from haiftrace.reports.formatting import (
    cosine_text,
    count_text,
    has_shares,
    score_text,
    share_text,
    size_text,
)
from haiftrace.reports.sanitize import encodable, inert, inert_json
from haiftrace.reports.terminal.flow import Unit, excerpt, plain_units, wrap
from tests.reports.report_samples import CHINESE, ENGLISH, HOSTILE, Piece, record_of, tokens_of

# Signs of Arabic, Syriac and the like that are of category Cf and yet printed.
VISIBLE_FORMAT = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
VISIBLE_FORMAT |= {*range(0x13430, 0x13460)}

any_text = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE), max_size=60)


def record(text: str, pieces: list[Piece], **more: object) -> RecordEvidence:
    tokens = tokens_of(text, pieces)
    score = sum(token.evidence for token in tokens)
    return RecordEvidence(1, "r", Source("c.jsonl", 1), score, 0.5, text, tokens)


def words_of(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [word.text for word in merge_words(record(text, [(*span, 0.1) for span in spans]))]


# Inert text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
        ("\x1b]0;title\x07", "^[]0;title^G"),
        ("nul\x00del\x7f", "nul^@del^?"),
        ("c1\x9b31m\x85", "c1<U+009B>31m<U+0085>"),
        ("a\nb\r\nc\rd\te", "a↵b↵c↵d⇥e"),
        ("\u202egnp.exe\u202c", "<U+202E>gnp.exe<U+202C>"),
        ("\u2066x\u2069", "<U+2066>x<U+2069>"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "a<U+200B>b<U+2060>c<U+FEFF>d<U+00AD>e"),
        ("pass\u200dword 密\u200d码", "pass<U+200D>word 密<U+200D>码"),
        ("line\u2028sep\u2029", "line<U+2028>sep<U+2029>"),
        ("half \ud83d", "half �"),
        ("tag\U000e0041", "tag<U+E0041>"),
        ("a\ufe0fb 😀\ufe0f\ufe0e\ufe0f", "a<U+FE0F>b 😀\ufe0f<U+FE0E><U+FE0F>"),
    ],
)
def test_what_steers_a_terminal_is_shown(hostile: str, shown: str) -> None:
    assert inert(hostile) == shown


@pytest.mark.parametrize(
    "text",
    ["plain [bold red]markup[/]", "Grüße, 张伟 أهلا नमस्ते", "👨‍👩‍👧 🏃🏽‍♂️ ❤️‍🔥 1️⃣ ☎️", "می‌خواهم", "क्‍ष"],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert inert(text) == text


def test_every_control_and_format_character_is_covered() -> None:
    raw = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        and code not in VISIBLE_FORMAT
        and chr(code) in inert(f"x{chr(code)}x")
    ]
    assert raw == []


@given(any_text)
def test_inert_text_has_nothing_that_steers_and_stays_so(text: str) -> None:
    shown = inert(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", shown)
    assert inert(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        ('"\x7f\x9b"', r'"\u007f\u009b"'),
        ('"\u202e\u2028"', r'"\u202e\u2028"'),
        ('"\U000e0041"', r'"\udb40\udc41"'),
        ('"\ud83d"', '"�"'),
        ('"张伟 😀"', '"张伟 😀"'),
    ],
)
def test_json_escapes_what_json_leaves_raw(raw: str, escaped: str) -> None:
    assert inert_json(raw) == escaped


def test_a_poor_encoding_gets_ascii() -> None:
    assert encodable("│ a…", "utf-8") == "│ a…"
    assert encodable("│ a… █ 张", "ascii") == "| a... # \\u5f20"
    assert encodable("café 张", "latin-1") == "café \\u5f20"


# Words


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


# Numbers


def test_scores_and_cosines() -> None:
    assert [score_text(x) for x in (0.42131, 0.42, 1234.2, 1.25e-5, -3.0, -0.0)] == [
        "0.4213",
        "0.4200",
        "1234",
        "1.250e-05",
        "-3.000",
        "0.000",
    ]
    assert [cosine_text(x) for x in (0.4211, -0.5, 0.0, -0.0001)] == [
        "+0.421",
        "-0.500",
        "+0.000",
        "+0.000",
    ]


def test_shares_keep_the_sign_of_the_evidence() -> None:
    assert share_text(0.31, 1.0) == "+31%"
    assert share_text(0.31, -1.0) == "+31%"
    assert share_text(-0.004, 1.0) == "-0.4%"
    assert share_text(1.5, 1.0) == "+150%"


def test_a_score_that_cancels_out_has_no_shares() -> None:
    assert has_shares(1.0, [2.0, -1.0])
    assert not has_shares(1e-18, [0.5, -0.5])
    assert not has_shares(0.0, [])
    assert not has_shares(math.nan, [math.nan])
    assert share_text(0.5, 0.0, as_share=False) == "+0.5"


def test_counts_and_sizes() -> None:
    assert count_text(1, "record") == "1 record"
    assert count_text(1200, "token") == "1,200 tokens"
    assert [size_text(x) for x in (0, 960, 1500, 134_515_008, 999_900_000, 70 * 10**9)] == [
        "0",
        "960",
        "1.50K",
        "135M",
        "1.00B",
        "70.0B",
    ]


# The flow of lines


def units_of(text: str) -> list[Unit]:
    return list(plain_units(text, inert))


def plain(units: list[Unit], width: int) -> list[str]:
    return [line.plain for line in wrap(units, width)]


def test_lines_break_at_spaces_and_between_han_but_not_before_punctuation() -> None:
    assert plain(units_of("one two  three\nfour"), 9) == ["one two", "three ↵", "four"]
    assert plain(units_of("一二三四。五"), 8) == ["一二三", "四。五"]
    assert plain(units_of("x" * 12), 5) == ["xxxxx", "xxxxx", "xx"]
    assert plain([], 10) == [""]


@given(any_text, st.integers(8, 40))
def test_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    units = units_of(text)
    lines = plain(units, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(unit.text for unit in units)


def test_an_excerpt_shows_what_stands_around_its_keys() -> None:
    units = [Unit(f"w{index}", gap=True, key=index in {50, 52}) for index in range(100)]
    shown, is_cut = excerpt(units, limit=100, context=8)
    assert is_cut
    assert [unit.text for unit in shown] == [
        "…",
        "w48",
        "w49",
        "w50",
        "w51",
        "w52",
        "w53",
        "w54",
        "…",
    ]
    assert excerpt(units, limit=1000, context=8) == (units, False)


def test_an_excerpt_without_keys_is_the_beginning_and_the_end() -> None:
    units = [Unit(f"w{index}", gap=True) for index in range(100)]
    shown, is_cut = excerpt(units, limit=16, context=8)
    assert is_cut
    assert [unit.text for unit in shown] == ["w0", "w1", "…", "w98", "w99"]


def test_an_excerpt_cuts_a_run_without_spaces() -> None:
    (shown,), is_cut = excerpt([Unit("x" * 5000)], limit=100, context=8)
    assert is_cut
    assert "…" in shown.text
    assert cell_len(shown.text) < 100
