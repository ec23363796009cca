"""Dates of birth: dates that a word calls so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from haiftrace.privacy.context import is_followed, is_named
from haiftrace.privacy.dates import find_dates

_BIRTH_WORD = re.compile(
    r"\bborn\b|\bbirth|\bD\.?O\.?B\b|\bcame into the world|\bb\. ?\Z|(?<!\S)\* ?\Z|\bbday\b"
    r"|\bbrought into the world"
    r"|\bgeboren|\bgeb\. ?\Z|\bgeb\.?[ -]?(?:datum|tag|dat)\b|\bgeburt"
    r"|\bnée? le\b|\bné\(e\)|\bnaissance|\bnaquit|\banniversaire"
    r"|\bnacid|\bnacimiento"
    r"|\bnació\b|\bcumpleaños|\bnat[oai] il\b|\bnat[oa]\b|\bnascita|\bcompleanno"
    r"|\bnascid|\bnascimento|\bnasceu|\baniversário|\bgeboorte|\burodz|\bfödd|\bfödelse|\bfødt"
    r"|\bdoğum|\bродил|\bрожд"
    r"|出生|生于|生於|生日|诞生|诞辰|誕生|生年月日|生まれ|생년월일|출생|태어|생일|जन्म",
    re.IGNORECASE,
)
_BORN_BEHIND = re.compile(
    r"\)?,?\s?(?:出生|誕生|诞生|に?生まれ|に誕生|生(?![\u4e00-\u9fff])|출생|에 태어|생(?!\w)"
    r"|geboren\b|is (?:his|her|my) birthday"
    r"|urodz|doğumlu)"
)


def find_birthdays(text: str) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of dates of birth in a folded text; see `fold_numbers`."""
    for date in find_dates(text):
        is_behind = is_followed(text, date.end, _BORN_BEHIND, 24)
        if is_behind or is_named(text, date.start, _BIRTH_WORD):
            yield date.start, date.end
