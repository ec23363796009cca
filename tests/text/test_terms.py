"""Terms: how texts are normalised and cut, and where each term stands."""

from __future__ import annotations

import unicodedata
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.text.terms import terms
from tests.text.strategies import CHARACTERS, texts_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O'Brien, john_doe@x.org", ["o", "brien", "john", "doe", "x", "org"]),
        ("+1 (555) 014-2000", ["1", "555", "014", "2000"]),
        ("张伟138A股", ["张伟", "138a", "股"]),
        ("北京市", ["北京", "京市"]),
        ("约翰·多伊、ー。", ["约翰", "多伊", "ー"]),
        ("ｶﾞｯｺｳ ガッコウ", ["ガッ", "ッコ", "コウ"] * 2),
        ("か\u309aき", ["か\u309aき"]),
        ("각각", ["각각"]),
        ("ｊｏｓé \u202dJOSE\u0301\u202c", ["jos\xe9", "jos\xe9"]),
        ("15㎏ № x² ﬁn", ["15kg", "no", "x2", "fin"]),
        ("㍿ ½", ["株式", "式会", "会社", "1", "2"]),
        ("co\u00adop zero\u200bwidth", ["coop", "zero", "width"]),
        ("葛\U000e0100城", ["葛城"]),
        ("Jose\u200d\u0301", ["jos\xe9"]),
        ("ΐ Ϊ\u0301", ["ΐ", "ΐ"]),
        ("हिन्दी नाम", ["हिन्दी", "नाम"]),
        ("☎️ 😀 \u0301 \ud800 _", []),
    ],
)
def test_what_terms_a_text_has(text, expected):
    assert texts_of(text) == expected


def test_places_are_those_in_the_original_text():
    text = "ﬁn: 각\u1100각, Ｊo\u0308 ㍿"
    places = {term: [] for term in texts_of(text)}
    for term in terms(text):
        places[term.text].append(text[term.start : term.end])
    assert places == {
        "fin": ["ﬁn"],
        "각\u1100": ["각\u1100"],
        "\u1100각": ["\u1100각"],
        "jö": ["Ｊo\u0308"],
        "株式": ["㍿"],
        "式会": ["㍿"],
        "会社": ["㍿"],
    }


@given(text=CHARACTERS | st.text(max_size=14))
def test_a_term_is_found_again_in_its_place(text):
    result = terms(text)
    assert [t.start for t in result] == sorted(t.start for t in result)
    for term in result:
        assert 0 <= term.start < term.end <= len(text)
        assert term.text in texts_of(text[term.start : term.end])


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(text=CHARACTERS)
def test_terms_do_not_depend_on_the_encoding_of_characters(form, text):
    assert texts_of(unicodedata.normalize(form, text)) == texts_of(text)


def test_a_character_with_countless_marks_takes_linear_time():
    start = perf_counter()
    result = terms("a" + "\u0301\u0323" * 100_000 + "b lee")
    assert perf_counter() - start < 2  # its normal form alone takes 15 times that
    assert len(result) == 2
    assert (result[0].start, result[1].text) == (0, "lee")
