"""Private values that nobody had to name: e-mail, phone, card, ids, birthdays, addresses, keys.

Own patterns: a library of phone numbers such as `phonenumbers` (2.6 MB) knows which numbers are
assigned, and so misses the invented ones of tests and demos, and needs a country for the others.
What carries a checksum is checked; what does not needs an unmistakable form or a word beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from haiftrace.privacy.canonical import same_width
from haiftrace.privacy.checksums import iban_length, is_card, is_chinese_id, is_iban, is_us_ssn
from haiftrace.privacy.dates import find_dates
from haiftrace.privacy.places import find_addresses

Span = tuple[int, int]

_NEAR = 48
"""Characters before a value in which a word may say what it is."""

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-])"
)
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|sk-[A-Za-z0-9_-]{20,200}|[sr]k_(?:live|test)_[0-9A-Za-z]{16,255}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,64}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,255}"
    r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,1000}"
    r")(?![A-Za-z0-9])"
)
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{1,8192}?-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
_NAMED_KEY = re.compile(
    r"(?:api[ _-]?key|access[ _-]?key|secret|token|password|passwd|pwd|密码|口令|密钥)"
    r"[\"']?\s{0,3}(?:is\s|=|:|是|为)\s{0,3}[\"']?(?P<value>[^\s\"',;，。；]{6,200})",
    re.IGNORECASE,
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d])")
_CHINESE_ID = re.compile(r"(?<![A-Za-z0-9])\d{17}[\dXx](?![A-Za-z0-9])")
_SSN = re.compile(r"(?<![\d-])\d{3}([- ])\d{2}\1\d{4}(?![\d-])")
_BARE_SSN = re.compile(r"(?<![\d-])\d{9}(?![\d-])")
_SSN_WORD = re.compile(r"\bSSN\b|social security", re.IGNORECASE)
_NINO = re.compile(
    r"(?<![A-Za-z0-9])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"
    r"(?![A-Za-z0-9])"
)

_PHONES = (
    # +44 20 7946 0958, +1 (555) 123-4501
    re.compile(
        r"(?<![\w+])\+\d{1,3}[ .-]{0,2}(?:\(\d{1,4}\)[ .-]{0,2})?"
        r"\d{1,5}(?:[ .-]?\d{2,5}){1,4}(?!\d)"
    ),
    # (555) 123-4501, 1-555-123-4501, 555.123.4501
    re.compile(
        r"(?<![\d.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"
        r"(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\d-])"
    ),
    # 138-0013-8000, 13800138000
    re.compile(r"(?<![\d.-])(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d-])"),
    # 020 7946 0958, 010-62345678
    re.compile(r"(?<![\d.-])\(?0\d{2,4}\)?[ -]\d{3,4}(?:[ -]\d{3,4}|\d{4})(?![\d-])"),
    # 400-820-8820
    re.compile(r"(?<![\d.-])[48]00-?\d{3}-?\d{4}(?![\d-])"),
    # 555-0134: the numbers that films and tests use
    re.compile(r"(?<![\d.-])555[ .-]\d{4}(?![\d-])"),
)
# Any other number only where a word says that it is a phone's.
_CALLED = re.compile(r"(?<![\w.-])\(?\d{2,5}\)?(?:[ .-]{0,2}\d{2,5}){1,4}(?![\w-]|\.\d)")
_PHONE_WORD = re.compile(
    r"\b(?:tele)?phone|\btel\b|\bcall(?:s|ed|ing)?\b|\bmobile|\bcell(?:phone)?\b|\bfax\b|whatsapp"
    r"|\bdial|\breach(?:ed|able)?\b|\bcontact|\bnumber\b|电话|手机|联系|致电|拨打|号码|传真",
    re.IGNORECASE,
)
_BIRTH_WORD = re.compile(
    r"\bborn\b|\bbirth|\bD\.?O\.?B\b|\bcame into the world|\bb\. |出生|生于|生日|诞生|诞辰",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Detected:
    """A private value in a text: what it is, and its characters [start, end)."""

    type: str
    start: int
    end: int


def detect(text: str, before: str = "") -> list[Detected]:
    """Find private values, in the order of the text; none overlaps another.

    Args:
        text: where to look.
        before: what stands before it (the prompt of a response), so that "born on" there makes
            a date here a date of birth. Values that begin in it are not reported.
    """
    context = same_width(before + text)
    taken: list[Detected] = []
    for type, find in _DETECTORS:
        for start, end in find(context):
            while end > start and context[end - 1].isspace():
                end -= 1
            if all(end <= other.start or start >= other.end for other in taken):
                taken.append(Detected(type, start, end))
    own = (value for value in taken if value.start >= len(before))
    return sorted(
        (Detected(value.type, value.start - len(before), value.end - len(before)) for value in own),
        key=lambda value: value.start,
    )


def _is_named(text: str, start: int, word: re.Pattern[str], near: int = _NEAR) -> bool:
    """Whether a word before `start`, in the same sentence, says what stands there."""
    context = text[max(0, start - near) : start]
    # A full stop with a space ends a sentence, but not in an abbreviation such as "tel. ".
    sentence = re.split(r"(?<=\w{3})[.!]\s|[。！\n]", context)[-1]
    return bool(word.search(sentence))


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _keys(text: str) -> Iterator[Span]:
    yield from _matches(_PEM)(text)
    yield from _matches(_KEY)(text)
    for match in _NAMED_KEY.finditer(text):
        value = match["value"].rstrip(".!?)")
        has_digit = any(sign.isdigit() for sign in value)
        if has_digit and any(sign.isalpha() for sign in value):
            yield match.start("value"), match.start("value") + len(value)


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length, end, kept = iban_length(match[0][:2]), match.start(), ""
        while end < match.end() and len(kept) < length:
            kept += text[end].strip()
            end += 1
        if is_iban(kept):
            yield match.start(), end


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        if is_card(re.sub(r"\D", "", match[0])):
            yield match.span()


def _national_ids(text: str) -> Iterator[Span]:
    for match in _CHINESE_ID.finditer(text):
        if is_chinese_id(match[0]):
            yield match.span()
    for match in _SSN.finditer(text):
        if is_us_ssn(re.sub(r"\D", "", match[0])):
            yield match.span()
    for match in _BARE_SSN.finditer(text):
        if is_us_ssn(match[0]) and _is_named(text, match.start(), _SSN_WORD):
            yield match.span()
    yield from _matches(_NINO)(text)


def _birthdays(text: str) -> Iterator[Span]:
    for date in find_dates(text):
        # "1980年5月1日出生": in Chinese the word may follow.
        follows = re.match(r"\s?(?:出生|生|诞生)", text[date.end :])
        if follows or _is_named(text, date.start, _BIRTH_WORD):
            yield date.start, date.end


def _phones(text: str) -> Iterator[Span]:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            if 7 <= _digits(match[0]) <= 17:
                yield match.span()
    for match in _CALLED.finditer(text):
        dated = any(d.start < match.end() and match.start() < d.end for d in find_dates(text))
        is_long = 7 <= _digits(match[0]) <= 15
        if is_long and not dated and _is_named(text, match.start(), _PHONE_WORD, 24):
            yield match.span()


def _digits(text: str) -> int:
    return sum(sign.isdigit() for sign in text)


_DETECTORS: tuple[tuple[str, Callable[[str], Iterator[Span]]], ...] = (
    ("key", _keys),
    ("email", _matches(_EMAIL)),
    ("iban", _ibans),
    ("national-id", _national_ids),
    ("card", _cards),
    ("date-of-birth", _birthdays),
    ("address", find_addresses),
    ("phone", _phones),
)

TYPES = tuple(type for type, _ in _DETECTORS)
"""The types of values that detectors know, the surest first."""
