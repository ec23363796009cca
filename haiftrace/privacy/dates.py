"""Dates in the ways that English and Chinese texts write them, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from haiftrace.privacy.canonical import canonical, same_width

Day = tuple[int | None, int, int]
"""Year (None where none is said), month, day."""

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_MONTH_NUMBERS = {name[:3]: number for number, name in enumerate(_MONTHS, 1)}
_MONTH = (
    r"(?P<month>Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_ORDINAL = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_HAN = "[〇零一二三四五六七八九十廿卅]"

_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # 1980-05-01, 1980/5/1, 1980.05.01
        r"(?<!\d)(?P<year>\d{4})\s?(?P<sign>[-/.])\s?(?P<month>\d{1,2})\s?(?P=sign)\s?"
        r"(?P<day>\d{1,2})(?!\d)",
        # 05/01/1980: of which the first number may be the day or the month
        r"(?<!\d)(?P<one>\d{1,2})\s?(?P<sign>[-/.])\s?(?P<two>\d{1,2})\s?(?P=sign)\s?"
        r"(?P<year>\d{4}|\d{2})(?!\d)",
        # 1 May 1980, 1st of May, 1980, 1-May-1980
        rf"(?<!\w){_ORDINAL}[\s-]+(?:of\s+)?{_MONTH}(?:(?:,\s*|\s+|-)(?P<year>\d{{4}})(?!\d))?",
        # May 1, 1980, May 1st 1980
        rf"\b{_MONTH}[\s-]+{_ORDINAL}(?!\w)(?:(?:,\s*|\s+|-)(?P<year>\d{{4}})(?!\d))?",
        # 1980年5月1日, 一九八〇年五月一日, 5月1日
        rf"(?:(?P<year>(?<!\d)\d{{4}}|{_HAN}{{4}})\s*年\s*)?"
        rf"(?P<month>(?<!\d)\d{{1,2}}|{_HAN}{{1,3}})\s*月\s*"
        rf"(?P<day>\d{{1,2}}|{_HAN}{{1,3}})\s*[日号]",
    )
)


@dataclass(frozen=True)
class DateSpan:
    """A date in a text: its characters, and the days that it may mean."""

    start: int
    end: int
    days: frozenset[Day]


def find_dates(text: str) -> list[DateSpan]:
    """All dates that say at least a month and a day, in the order of the text."""
    plain = same_width(text)
    found: list[DateSpan] = []
    for form in _FORMS:
        for match in form.finditer(plain):
            days = frozenset(_days(match.groupdict()))
            if days:
                found.append(DateSpan(match.start(), match.end(), days))
    return sorted(found, key=lambda span: (span.start, -span.end))


def days_of(value: str) -> frozenset[Day]:
    """The days that a value may mean; none where it is no date, or more than one."""
    whole = canonical(value).text
    for span in find_dates(value):
        if canonical(value[span.start : span.end]).text == whole:
            return span.days
    return frozenset()


def is_said(protected: frozenset[Day], said: frozenset[Day]) -> bool:
    """Whether what is said tells the protected day; one without a year is told by any year."""
    return any(
        wanted[1:] == given[1:] and wanted[0] in (None, given[0])
        for wanted in protected
        for given in said
    )


def _days(parts: dict[str, str | None]) -> Iterator[Day]:
    years = _years(parts["year"])
    if parts.get("one"):
        one, two = int(parts["one"] or 0), int(parts["two"] or 0)
        pairs = {(one, two), (two, one)}
    else:
        pairs = {(_month(parts["month"] or ""), _number(parts["day"] or ""))}
    for year in years:
        for month, day in pairs:
            if 1 <= month <= 12 and 1 <= day <= 31:
                yield year, month, day


def _years(written: str | None) -> list[int | None]:
    if not written:
        return [None]
    if len(written) == 2:
        return [1900 + int(written), 2000 + int(written)]
    return [int("".join(str(_number(sign)) for sign in written))]


def _month(written: str) -> int:
    return _MONTH_NUMBERS.get(written[:3].lower()) or _number(written)


def _number(written: str) -> int:
    """0 to 39, in digits or in Chinese: 31, 三十一, 廿一; 0 where it is neither."""
    if written.isdecimal():
        return int(written)
    signs = written.replace("廿", "二十").replace("卅", "三十")
    tens, ten, ones = signs.rpartition("十")
    digits = {sign: value for value, sign in enumerate("零一二三四五六七八九")} | {"〇": 0, "": 0}
    if tens not in digits or ones not in digits:
        return 0
    return (10 * (digits[tens] or 1) if ten else 0) + digits[ones]
