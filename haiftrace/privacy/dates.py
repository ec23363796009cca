"""Dates in the ways that texts of a dozen languages write them, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from haiftrace.privacy.canonical import canonical
from haiftrace.privacy.folding import fold_numbers

Day = tuple[int | None, int, int]
"""Year (None where none is given), month, day."""

# Month names by language: English, German, French, Spanish, Italian, Portuguese, Dutch, Polish,
# Swedish, Turkish, Russian. What is shortened is so by three letters or more.
_NAMES = (
    "jan january januar jänner janvier janv enero ene gennaio gen janeiro januari stycznia sty"
    " styczeń ocak января янв",
    "feb february februar februari feber février fevrier févr febrero febbraio fevereiro fev lutego"
    " luty şubat февраля фев",
    "mar march märz mrz mars marzo março marco maart mrt marca marzec mart марта мар",
    "apr april avril avr abril abr aprile kwietnia kwiecień nisan апреля апр",
    "may mai mayo maggio mag maio mei maja maj mayıs мая май",
    "jun june juni juin junio giugno giu junho czerwca czerwiec haziran июня июн",
    "jul july juli juillet juil julio luglio lug julho lipca lipiec temmuz июля июл",
    "aug august août aout agosto ago augustus sierpnia sierpień augusti ağustos августа авг",
    "sep sept september septembre septiembre settembre set setembro września wrzesień eylül"
    " сентября сен",
    "oct october oktober okt octobre octubre ottobre ott outubro out października październik ekim"
    " октября окт",
    "nov november novembre noviembre novembro listopada listopad kasım ноября ноя",
    "dec december dezember dez décembre decembre déc diciembre dic dicembre dezembro grudnia"
    " grudzień aralık декабря дек",
)
_MONTH_NUMBERS = {name: number for number, names in enumerate(_NAMES, 1) for name in names.split()}
_BARE_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTH_NUMBERS, key=len, reverse=True))})"
_MONTH = rf"{_BARE_MONTH}\b\.?"
_ORDINAL = r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|º|ª|e|\.)?"
_OF = r"(?:of\s+(?:the\s+)?|de\s+|do\s+)?"
_YEAR = (
    r"(?:(?:,\s*|\s+(?:de\s+|del\s+|of\s+)?|-|/|\.\s?)(?P<year>\d{4}|(?<=[-/])\d{2}|'\d{2})(?!\d))?"
)
_HAN = "[〇零一二三四五六七八九十廿卅]"

_DAY = re.compile(rf"\d|{_HAN}")
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # 1980-05-01, 1980/5/1, 1980.05.01, 1980. 5. 1.
        r"(?<!\d)(?<!\d[-/.])(?P<year>\d{4})(?:\s?(?P<sign>[-/.])\s?|\n)(?P<month>\d{1,2})"
        r"(?:\s?(?P<next>[-/.])\s?|\n)"
        r"(?P<day>\d{1,2})(?!\d|[-/.]\d)",
        # 05/01/1980: of which the first number may be the day or the month
        r"(?<!\d)(?<!\d[-/.])(?P<first>\d{1,2})(?:\s?(?P<sign>[-/.])\s?|\n)(?P<second>\d{1,2})"
        r"(?:\s?(?P<next>[-/.])\s?|\n)"
        r"(?P<year>\d{4}|\d{2})(?!\d|[-/.]\d)",
        # 1 May 1980, 1st of May, 1980, 1-May-1980, 1. Mai 1980, 1 de mayo de 1980
        rf"(?<!\w){_ORDINAL}(?:[\s-]+|(?<=\.)|(?<=\d)/){_OF}{_MONTH}{_YEAR}",
        # 04MAR1981
        rf"(?<!\w)(?P<day>\d{{1,2}}){_BARE_MONTH}(?P<year>\d{{4}})(?!\w)",
        # May 1, 1980, May 1st 1980, May the 1st
        rf"\b{_MONTH}[\s-]+(?:the\s+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?!\w){_YEAR}",
        # 1980年5月1日, 一九八〇年五月一日, 5月1日, 1980년 5월 1일
        rf"(?:(?P<year>(?<!\d)\d{{4}}|{_HAN}{{4}})\s*[年년]\s*)?"
        rf"(?P<month>(?<!\d)\d{{1,2}}|{_HAN}{{1,3}})\s*[月월]\s*"
        rf"(?P<day>\d{{1,2}}|{_HAN}{{1,3}})\s*[日号號일]",
    )
)


@dataclass(frozen=True)
class DateSpan:
    """A date in a text: its characters, and the days that it may mean."""

    start: int
    end: int
    days: frozenset[Day]


@lru_cache(maxsize=1024)
def find_dates(text: str) -> tuple[DateSpan, ...]:
    """All dates of a folded text with at least a month and a day, in its order."""
    spans: list[DateSpan] = []
    if not _DAY.search(text):
        return ()
    for form in _FORMS:
        for match in form.finditer(text):
            days = frozenset(_days(match.groupdict()))
            if days:
                spans.append(DateSpan(match.start(), match.end(), days))
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def days_of(value: str) -> frozenset[Day]:
    """The days that a value may mean; none where it is no date, or several."""
    form = canonical(value).text
    text = fold_numbers(value).text
    for span in find_dates(text):
        if canonical(text[span.start : span.end]).text == form:
            return span.days
    return frozenset()


def is_same_day(protected: frozenset[Day], stated: frozenset[Day]) -> bool:
    """Whether a stated date is a protected day; a day without a year is that of any year."""
    return any(
        day[1:] == other[1:] and day[0] in (None, other[0]) for day in protected for other in stated
    )


def _days(fields: dict[str, str | None]) -> Iterator[Day]:
    if "next" in fields and len({fields["sign"], fields["next"], None}) != 2:
        return  # two signs that differ, or line breaks alone
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
    written = written.lstrip("'")
    if len(written) == 2:
        return [1900 + int(written), 2000 + int(written)]
    return [int("".join(str(_number(sign)) for sign in written))]


def _month(written: str) -> int:
    return _MONTH_NUMBERS.get(written.lower()) or _number(written)


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
