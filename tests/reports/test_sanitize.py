"""Hostile text made inert, for a terminal and for JSON."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.reports.sanitize import encodable, inert, inert_json
from tests.reports.record_samples import HOSTILE

# Signs of Arabic, Syriac and the like that are of category Cf and yet printed.
VISIBLE_FORMAT = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
VISIBLE_FORMAT |= {*range(0x13430, 0x13460)}

any_text = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE), max_size=60)


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
