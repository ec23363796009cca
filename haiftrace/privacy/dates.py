"""Dates in the ways that English and Chinese texts write them, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from haiftrace.privacy.canonical import canonical, same_width

Day = tuple[int | None, int, int]
"""Year (None where none is given), month, day."""

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
        r"(?<!\d)(?P<first>\d{1,2})\s?(?P<sign>[-/.])\s?(?P<second>\d{1,2})\s?(?P=sign)\s?"
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
    """All dates with at least a month and a day, in the order of the text."""
    plain = same_width(text)
    spans: list[DateSpan] = []
    for form in _FORMS:
        for match in form.finditer(plain):
            days = frozenset(_days(match.groupdict()))
            if days:
                spans.append(DateSpan(match.start(), match.end(), days))
    return sorted(spans, key=lambda span: (span.start, -span.end))


def days_of(value: str) -> frozenset[Day]:
    """The days that a value may mean; none where it is no date, or several."""
    form = canonical(value).text
    for span in find_dates(value):
        if canonical(value[span.start : span.end]).text == form:
            return span.days
    return frozenset()


def is_same_day(protected: frozenset[Day], stated: frozenset[Day]) -> bool:
    """Whether a stated date is a protected day; a day without a year is that of any year."""
    return any(
        day[1:] == other[1:] and day[0] in (None, other[0]) for day in protected for other in stated
    )


def _days(fields: dict[str, str | None]) -> Iterator[Day]:
    years = _years(fields["year"])
    if fields.get("first"):
        first, second = int(fields["first"] or 0), int(fields["second"] or 0)
        pairs = {(first, second), (second, first)}
    else:
        pairs = {(_month(fields["month"] or ""), _number(fields["day"] or ""))}
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
