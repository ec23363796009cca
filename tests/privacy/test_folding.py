"""Texts as they are read: what is folded, where it stood, and in what time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.privacy import detect
from haiftrace.privacy.folding import fold, fold_characters, fold_numbers

FOLDED = [
    ("a\u2013b\u2212c", "a-b-c"),
    ("4\u00a05\u20096", "4 5 6"),
    ("5\u200b5\u00ad5\u2060-\ufeff0", "555-0"),
    ("\u202a555\u202c", "555"),
    ("５５５－０１３４", "555-0134"),
    ("٥٥٥ ०१२", "555 012"),
    ("a&#64;b&period;c&#x2d;d", "a@b.c-d"),
    (r"a\u0040b\x2ec", "a@b.c"),
    ("a%40b%2Ec", "a@b.c"),
    (r"a\.b\-c\@d", "a.b-c@d"),
    ("a&amp;#64;b", "a@b"),
    ("55<b></b>5<br>6", "555\n6"),
    ("jo dot doe at example dot org", "jo.doe@example.org"),
    ("jo [at] example [dot] org", "jo@example.org"),
    ("look at example.org", "look at example.org"),
    ("<jo@example.org>", "<jo@example.org>"),
    (r"C:\new\notes\file", r"C:\new\notes\file"),
    ("100 % of it & more; \\ alone", "100 % of it & more; \\ alone"),
    ("e\u0301", "é"),
]


@pytest.mark.parametrize(("text", "folded"), FOLDED)
def test_a_text_is_folded_to_what_is_read(text, folded):
    assert fold(text).text == folded


@pytest.mark.parametrize(
    ("text", "folded"),
    [("555 - 0134", "555-0134"), ("1.  2", "1.2"), ("12_34", "12-34"), ("12\n 34", "12\n34")],
)
def test_digits_have_a_single_sign_between_them(text, folded):
    assert fold_numbers(text).text == folded


@given(st.text(alphabet="ab1-\\u00&#64;%4<b>/ @.\n\u200b１é", max_size=40))
def test_every_character_has_its_place_in_the_original(text):
    for view in (fold(text), fold_characters(text), fold_numbers(text)):
        assert len(view.starts) == len(view.ends) == len(view.text)
        assert list(view.starts) == sorted(view.starts)
        assert all(0 <= a < b <= len(text) for a, b in zip(view.starts, view.ends, strict=True))


HOSTILE = [
    "1 ",
    "a.b@",
    "+1-",
    "&#64;",
    r"\u0040",
    " at dot",
    "<b>",
    "x\n",
    "born 1 May ",
    "rue de ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_length_and_not_with_its_square(piece):
    def seconds(count):
        began = time.process_time()
        detect(piece * count)
        return time.process_time() - began

    seconds(10)
    short, long = seconds(1_000), seconds(8_000)
    assert long < 24 * short + 0.5
