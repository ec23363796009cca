"""Private values that nobody had to name, found as a person reads the text.

What carries a checksum is checked; what does not needs an unmistakable form or a word beside it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from haiftrace.privacy.accounts import find_cards, find_ibans, find_wallets
from haiftrace.privacy.birthdays import find_birthdays
from haiftrace.privacy.emails import find_emails
from haiftrace.privacy.folding import Folded, fold, fold_numbers, join_lines
from haiftrace.privacy.identifiers import find_national_ids, find_passports
from haiftrace.privacy.keys import find_keys
from haiftrace.privacy.networks import find_networks
from haiftrace.privacy.phones import find_phones
from haiftrace.privacy.places import find_addresses
from haiftrace.privacy.settings import DEFAULT_DETECTION, DetectionSettings

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]

_BREAK = re.compile("\n")
_JOINTS = re.compile(r"(?<=[\w-])[ \t]*\n[ \t]*(?=[\w-])")
_IN_WORDS = {"key": find_keys, "email": find_emails, "ip": find_networks}
_IN_NUMBERS = {
    "iban": find_ibans,
    "crypto": find_wallets,
    "national-id": find_national_ids,
    "card": find_cards,
    "passport": find_passports,
    "date-of-birth": find_birthdays,
    "address": find_addresses,
}

_RANDOM = re.compile(r"[A-Za-z]\d|\d[A-Za-z]|[a-z][A-Z]")
_CHECKED = frozenset({"iban", "crypto", "national-id", "card", "date-of-birth"})
"""Types of which the longer value is the surer one."""


@dataclass(frozen=True)
class Detected:
    """A private value in a text: what it is, and its characters [start, end)."""

    type: str
    start: int
    end: int


def detect(
    text: str, before: str = "", settings: DetectionSettings = DEFAULT_DETECTION
) -> list[Detected]:
    """Find private values, in the order of the text; none overlaps another.

    Args:
        text: where to look.
        before: what stands before it (the prompt of a response), so that "born on" there makes
            a date here a date of birth. Values that begin in it are not reported.
        settings: the types that are looked for, and what may be said.
    """
    return list(_detect(text, before, settings))


@lru_cache(maxsize=32768)
def _detect(text: str, before: str, settings: DetectionSettings) -> tuple[Detected, ...]:
    context = before + text
    taken: list[Detected] = []
    covered = bytearray(len(context))
    for type, start, end in _spans(context, settings):
        if any(covered[start:end]):
            continue
        covered[start:end] = b"\1" * (end - start)
        if not settings.allows(context[start:end]):
            taken.append(Detected(type, start, end))
    own = (value for value in taken if value.start >= len(before))
    return tuple(
        sorted(
            (Detected(v.type, v.start - len(before), v.end - len(before)) for v in own),
            key=lambda value: value.start,
        )
    )


def _spans(text: str, settings: DetectionSettings) -> Iterator[tuple[str, int, int]]:
    """Values by type, the surest first, with their places in the original."""
    words, numbers = fold(text), fold_numbers(text)
    joined = join_lines(numbers, _JOINTS) if "\n" in numbers.text else numbers
    breaks = [numbers.starts[m.start()] for m in _BREAK.finditer(numbers.text)]
    for type in settings.types:
        find = _find(type, settings)
        spans = _in_view(words if type in _IN_WORDS else numbers, find)
        if joined is not numbers:
            cut = [
                (start, end)
                for start, end in _in_view(joined, find)
                if bisect_left(breaks, start) < bisect_left(breaks, end)
            ]
            spans = [span for span in spans if not _is_part(text, span, cut, type)]
            spans += cut
        yield from ((type, *span) for span in spans)


def _is_part(text: str, span: Span, cut: list[Span], type: str) -> bool:
    """Whether a value ends at a line break in the middle of one of those that a break cuts."""
    start, end = span
    for first, last in cut:
        if not (first <= start and end <= last and last - first > end - start):
            continue
        rest = text[end:last].lstrip("\\nr \r\n\t,")
        if type in _CHECKED:
            return True
        if type == "address" and rest[:1].islower():
            return True
        if type == "key" and _RANDOM.search(rest):
            return True
    return False


def _in_view(view: Folded, find: Find) -> list[Span]:
    """What is found in a folded text, as places in the original."""
    spans = []
    for start, end in find(view.text):
        while end > start and view.text[end - 1].isspace():
            end -= 1
        if start < end:
            spans.append(view.span(start, end))
    return spans


def _find(type: str, settings: DetectionSettings) -> Find:
    if type == "phone":
        return lambda text: find_phones(text, settings.regions)
    return _IN_WORDS[type] if type in _IN_WORDS else _IN_NUMBERS[type]
