"""Whether a text holds any of a set of values, however it spells it, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from haiftrace.privacy.canonical import Canonical, canonical, canonical_of
from haiftrace.privacy.characters import is_wordless_script
from haiftrace.privacy.dates import DateSpan, Day, days_of, find_dates, is_same_day
from haiftrace.privacy.folding import Folded, fold, fold_numbers, views

_PREFIX = 6
_PHONE_DIGITS = 7
"""Least digits of a phone number; a number of these or more is recognised inside a longer one."""
_SHORT = 4
"""Letters and digits below which a value counts only where it stands as a word of its own."""
_GAP = 4
"""Most signs (white space aside) between two characters of a value."""

# Country codes of up to two digits (ITU-T E.164); all others have three.
_SHORT_CODES = re.compile("1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")


@dataclass(frozen=True)
class Match:
    """A value in a text: which, by its number, and the characters [start, end)."""

    value: int
    start: int
    end: int


class ValueIndex:
    """Finds any of a set of values in a text in a single pass over its characters.

    Values are the same up to case, accents, spacing, punctuation, width and escapes, the country
    code and trunk zero of phone numbers, the format of dates, and the signs of an e-mail address
    in words. Values without a letter or digit are never matched.

    Args:
        values: as they were given; a match names a value by its place here.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._by_prefix: dict[str, list[tuple[str, int]]] = {}
        self._by_day: dict[tuple[int, int], list[tuple[int, frozenset[Day]]]] = {}
        for number, value in enumerate(values):
            for form in spellings(value):
                held = self._by_prefix.setdefault(form[:_PREFIX], [])
                if (form, number) not in held:
                    held.append((form, number))
            days = days_of(value)
            for pair in {day[1:] for day in days}:
                self._by_day.setdefault(pair, []).append((number, days))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix})

    def find(self, text: str, words: bool = False) -> list[Match]:
        """All matches, in the order of the text.

        Args:
            text: where to look.
            words: only where the value stands by itself, not inside a longer word or number: what
                counts as a leak. Without it a value of four characters or more is matched anywhere:
                what must be hidden.
        """
        matches = {*self._by_spelling(text, words), *self._by_date(text)}
        return sorted(matches, key=lambda match: (match.start, match.end, match.value))

    def _by_spelling(self, text: str, words: bool) -> Iterator[Match]:
        if not self._lengths:
            return
        for view in views(text):
            yield from self._in_view(view, words)

    def _in_view(self, view: Folded, words: bool) -> Iterator[Match]:
        signs = canonical_of(view)
        for at in range(len(signs.text)):
            for length in self._lengths:
                for form, number in self._by_prefix.get(signs.text[at : at + length], ()):
                    if signs.text.startswith(form, at):
                        start, end = signs.origin[at], signs.origin[at + len(form) - 1] + 1
                        if (
                            _is_single_value(view.text[start:end], form)
                            and _stands_alone(view.text, start, end, form, words)
                            and _cuts_no_character(view, signs, at, len(form))
                        ):
                            yield Match(number, *view.span(start, end))

    def _by_date(self, text: str) -> Iterator[Match]:
        if not self._by_day:
            return
        view = fold_numbers(text)
        for span in find_dates(view.text):
            for match in self._same_day(span):
                yield Match(match.value, *view.span(match.start, match.end))

    def _same_day(self, span: DateSpan) -> Iterator[Match]:
        for pair in sorted({day[1:] for day in span.days}):
            for number, days in self._by_day.get(pair, ()):
                if is_same_day(days, span.days):
                    yield Match(number, span.start, span.end)


def spellings(value: str) -> tuple[str, ...]:
    """The canonical forms of a value.

    Of a phone number also those without code and trunk zero, of an e-mail address also those with
    its signs in words.
    """
    full = canonical(value).text
    forms = [form for view in views(value) if (form := canonical_of(view).text)]
    if not full:
        return tuple(forms)
    if full.isdecimal() and len(full) >= _PHONE_DIGITS and not days_of(value):
        national = _national(value, full)
        shorter = [national, national.removeprefix("0")]
        forms += [form for form in shorter if len(form) >= _PHONE_DIGITS]
    name, at, host = fold(value).text.partition("@")
    if at and "." in host and " " not in value.strip():
        local, domain = (
            {canonical(side).text, canonical(side.replace(".", " dot ")).text}
            for side in (name, host)
        )
        forms += [f"{left}at{right}" for left in sorted(local) for right in sorted(domain)]
        forms += [f"{left}{right}" for left in sorted(local) for right in sorted(domain)]
    return tuple(dict.fromkeys(forms))


def identity(value: str) -> str:
    """What all spellings of a value share: of a date its days, else the shortest of them."""
    days = days_of(value)
    if days:
        return " ".join(sorted(f"{year or ''}-{month:02}-{day:02}" for year, month, day in days))
    return min(spellings(value), key=lambda form: (len(form), form), default="")


def _national(value: str, digits: str) -> str:
    """A phone number without its country's code, where it shows that it has a code."""
    start = fold(value).text.lstrip(" (")
    if start.startswith("00"):
        digits = digits[2:]
    elif not start.startswith("+"):
        has_code = len(digits) == 11 and digits[0] == "1" and digits[1] not in "01"
        return digits[1:] if has_code else digits
    code = _SHORT_CODES.match(digits)
    return digits[len(code[0]) if code else 3 :]


def _is_single_value(spelled: str, form: str) -> bool:
    """Whether the signs between its characters are those of a single value, not of a list."""
    gaps = [re.sub(r"\s", "", gap) for gap in re.split(r"\w+", spelled)]
    if any(len(gap.replace("_", "")) > _GAP for gap in gaps):
        return False
    is_short_number = form.isdecimal() and len(form) < _PHONE_DIGITS
    breaks = spelled.count("\n") > (len(form) > _SHORT)  # a long one may be wrapped once
    return not (is_short_number and (breaks or re.search(r"[,;，；、。]|\.\s", spelled)))


def _cuts_no_character(view: Folded, signs: Canonical, at: int, length: int) -> bool:
    """Whether no character of the original is cut: a ligature stands for several."""
    starts = [view.starts[signs.origin[i]] for i in (at, at + length - 1)]
    before = at > 0 and view.starts[signs.origin[at - 1]] == starts[0]
    after = at + length < len(signs.origin)
    return not (before or (after and view.starts[signs.origin[at + length]] == starts[1]))


def _stands_alone(text: str, start: int, end: int, form: str, words: bool) -> bool:
    if not words and len(form) >= _SHORT:
        return True
    is_phone = form.isdecimal() and len(form) >= _PHONE_DIGITS
    before = text[:start]
    if is_phone:  # its country's code, or a trunk zero, may stand before it
        before = re.sub(r"(?<!\d)\d{1,3}$", "", before[-8:])
    return not (_joins(before[-1:], text[start]) or _joins(text[end - 1], text[end : end + 1]))


def _joins(left: str, right: str) -> bool:
    """Whether two neighbours belong to the same word or number."""
    if not left or not right or is_wordless_script(left) or is_wordless_script(right):
        return False
    if left.isdigit() or right.isdigit():
        return left.isdigit() and right.isdigit()
    return left.isalpha() and right.isalpha()
