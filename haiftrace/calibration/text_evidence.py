"""What the text says beside what influence says: a verdict that no search refutes.

A value that stands in records of the corpus has holders. Influence says which of them taught it
most and hardly whether any did, so where it leaves that open, the text decides if chance does not
explain that the value stands there. Else the verdict is open, never "no source found".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from haiftrace.findings import Basis, Verdict
from haiftrace.privacy import ValueIndex, canonical, detect
from haiftrace.privacy.dates import Day, days_of, find_dates, is_same_day
from haiftrace.privacy.folding import fold_numbers
from haiftrace.reports.evidence_words import NAMED_FIRST, NEARLY

LEAST_POWER = 0.5
"""Where fewer of the controls with their source there clear alpha, not clearing it says nothing."""

NEAR_ALPHA = 5
"""Up to so many times alpha a p-value does not say that there is no source: sources have such ones
several times as often as chance does."""
_MOST_NEAR = 0.1

_DIGIT_BITS = math.log2(10)
_LETTER_BITS = 1.0
"""Of text, and less than its entropy, so that chances are upper bounds."""
_WIDE_LETTER_BITS = 3.0
"""Of a script whose characters are syllables or words."""
_DATES = 366 * 50
"""Dates of birth that people have, about."""
_IDENTIFYING_DIGITS = 6
_SENTENCE_LETTERS = 40
_NUMBER_DIGITS = 4
_FORM_PARTS = 4
"""Of a form that says what a text is."""
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+(?:[-/.]\w+)*")
_KINDS = {"phone": "phone number", "email": "e-mail address", "card": "card number", "iban": "IBAN"}


def chance_of_text(value: str, is_identifier: bool, records: int) -> float:
    """An upper bound on the chance that a value stands in a corpus that did not teach it.

    The number of unrelated records over the number of values of the same form: ten for each digit,
    and for letters by an entropy that is less than that of text. 1 for a date without a year, a
    name or another short text: many records hold the like.

    Args:
        is_identifier: whether a detector knows its form as that of an identifier.
        records: groups of near copies.
    """
    # Of an e-mail address the domain is shared.
    form = canonical(value.partition("@")[0] if is_identifier else value).text
    digits = sum(sign.isdigit() for sign in form)
    letters = len(form) - digits
    days = days_of(value)
    if days:
        return min(1.0, records / _DATES) if all(year for year, _, _ in days) else 1.0
    rare = digits >= _IDENTIFYING_DIGITS or letters >= _SENTENCE_LETTERS
    if not (is_identifier or rare):
        return 1.0
    wide = sum(ord(sign) >= 0x2E80 for sign in form)
    bits = digits * _DIGIT_BITS + (letters - wide) * _LETTER_BITS + wide * _WIDE_LETTER_BITS
    return min(1.0, records * 2.0**-bits)


def another_value(value: str, text: str) -> str | None:
    """What a value is, where a text states another of its kind: "phone number", ...; else None.

    Values that identify alone, by their type or as numbers of the same form: who reads a phone
    number cannot conclude another one from it.
    """
    days = days_of(value)
    if days:
        is_full = all(year for year, _, _ in days)
        return "date" if is_full and _states_another_day(days, text) else None
    kinds = {found.type for found in detect(value) if found.end - found.start == len(value)}
    same = ValueIndex([value])
    for stated in detect(text):
        if stated.type in kinds and not same.find(text[stated.start : stated.end]):
            return _KINDS.get(stated.type, stated.type.replace("-", " "))
    form = _form(value)
    if " " in value and "9" in form and len(form) >= _FORM_PARTS:
        of_form = (text[start:end] for start, end in _of_form(form, text))
        return "address or the like" if any(not same.find(other) for other in of_form) else None
    if sum(sign.isdigit() for sign in value) < _NUMBER_DIGITS:
        return None
    alike = (word[0] for word in _WORD.finditer(text) if _shape(word[0]) == _shape(value))
    return "number" if any(not same.find(word) for word in alike) else None


def doubt_of(value: str, text: str, is_known: bool) -> str | None:
    """Why a record that does not hold a value is not its source, as a clause; None without.

    Args:
        text: the record's.
        is_known: whether the model learnt it; see `haiftrace.calibration.learnt`.
    """
    another = another_value(value, text)
    if another is not None:
        return f"{NAMED_FIRST} states another {another}"
    return None if is_known else f"the model hardly knows {NAMED_FIRST}"


def _shape(word: str) -> str:
    """What an order's or a customer's number looks like: `INV-204` is `aaa-999`."""
    return re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "a", word))


def _form(value: str) -> str:
    """How an address is made up: `146 Elm Row, Eastham, CA` is `9A,A,A`."""
    return "".join(part for part, _, _ in _parts(value))


def _of_form(form: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a text has the form."""
    parts = _parts(text)
    for first in range(len(parts) - len(form) + 1):
        these = parts[first : first + len(form)]
        if all(part == sign for (part, _, _), sign in zip(these, form, strict=True)):
            yield these[0][1], these[-1][2]


def _parts(text: str) -> list[tuple[str, int, int]]:
    """Runs of numbers (9), of capitalised and of other words (A, a), and signs between, with where
    they begin and end.
    """
    parts: list[tuple[str, int, int]] = []
    for match in _WORD_OR_SIGN.finditer(text):
        word = match[0]
        if word[0].isdigit():
            part = "9"
        elif word[0].isalpha():
            part = "A" if word[0].isupper() else "a"
        else:
            part = word
        if parts and part in "9Aa" and parts[-1][0] == part:
            parts[-1] = (part, parts[-1][1], match.end())
        else:
            parts.append((part, match.start(), match.end()))
    return parts


def _states_another_day(days: frozenset[Day], text: str) -> bool:
    """Whether a text has a date with a year, and not that of these days."""
    return any(
        all(year for year, _, _ in span.days) and not is_same_day(days, span.days)
        for span in find_dates(fold_numbers(text).text)
    )


def with_text(
    verdict: Verdict,
    holds: Sequence[bool],
    holders: int,
    chance: float,
    is_open: bool = False,
    doubt: str | None = None,
) -> Verdict:
    """A verdict by influence, and by what the text says.

    Args:
        is_open: whether the verdict stays open whatever is found, as the model would hardly say
            what is traced.
        holds: whether each ranked record holds what was traced, best first.
        holders: how many records of the corpus do.
        chance: see `chance_of_text`.
        doubt: why the first record is not believed to be the source where it does not hold it, a
            clause; see `doubt_of`.
    """
    by_influence = verdict.decision == "traced"
    first_holds = bool(holds) and holds[0]
    by_text = chance <= verdict.alpha and not is_open
    if not holders:
        if by_influence and doubt is not None:
            reason = f"no record holds it, and {doubt}"
            return replace(verdict, decision="inconclusive", reasons=(*verdict.reasons, reason))
        return replace(verdict, basis="influence") if by_influence else without_power(verdict)
    if by_influence and first_holds:
        basis: Basis = "influence and text" if by_text else "influence"
        return replace(verdict, basis=basis)
    if by_text:
        reasons = (*verdict.reasons, *_other_first(verdict))
        return replace(verdict, decision="traced", basis="text", reasons=reasons)
    where = "a record holds it" if holders == 1 else f"{holders:,} records hold it"
    if by_influence and doubt is None:  # it stands in other records as well, as chance has it
        return replace(verdict, basis="influence")
    if by_influence:
        reason = f"{where}, and {doubt}"
    else:
        reason = where if is_open else f"{where}, which chance may explain"
    return replace(verdict, decision="inconclusive", reasons=(*verdict.reasons, reason))


def of_a_part(verdict: Verdict, corpus: Mapping[str, Any]) -> Verdict:
    """Inconclusive where the index holds a part of the corpus, and nothing in it is the source.

    Args:
        corpus: how the records were read, as the index keeps it.
    """
    if verdict.decision != "no source found" or not is_part(corpus):
        return verdict
    drawn = corpus.get("sample_records")
    option = f"--limit {corpus.get('limit')}" if drawn is None else f"--sample-records {drawn}"
    reason = f"only a part of the corpus is indexed ({option}), and the source may be in the rest"
    return replace(verdict, decision="inconclusive", reasons=(*verdict.reasons, reason))


def is_part(corpus: Mapping[str, Any]) -> bool:
    """Whether records of a corpus were left out on purpose, for a first look."""
    return corpus.get("limit") is not None or corpus.get("sample_records") is not None


def without_power(verdict: Verdict) -> Verdict:
    """Inconclusive where the controls show that a source would hardly be noticed."""
    power = verdict.power
    if verdict.decision != "no source found" or power is None or power >= LEAST_POWER:
        return verdict
    reason = (
        f"a source that is there would be noticed in {power:.0%} of cases only, so that none was"
        " noticed says little"
    )
    return replace(verdict, decision="inconclusive", reasons=(*verdict.reasons, reason))


def near_alpha(verdict: Verdict) -> Verdict:
    """Inconclusive where the first record stands out nearly as far as alpha asks for."""
    p_value, limit = verdict.p_value, min(_MOST_NEAR, NEAR_ALPHA * verdict.alpha)
    if verdict.decision != "no source found" or p_value is None or p_value > limit:
        return verdict
    reason = f"{NEARLY}: chance does as much in {p_value:.1%} of answers without a source"
    return replace(verdict, decision="inconclusive", reasons=(*verdict.reasons, reason))


def _other_first(verdict: Verdict) -> tuple[str, ...]:
    if verdict.decision == "traced":
        return ("influence names a record first that does not hold it",)
    return ()
