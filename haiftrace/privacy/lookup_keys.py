"""Keys by which records that may hold a value are looked up, however it is spelled there.

A text has a key for every run of characters of its canonical form, and for every day that it names.
A text that holds a value has all keys of one of the value's spellings: those that have them are
read, to see whether they do.
"""

from __future__ import annotations

import numpy as np

from haiftrace.privacy.canonical import canonical_of
from haiftrace.privacy.dates import days_of, find_dates
from haiftrace.privacy.folding import fold_numbers, views
from haiftrace.privacy.matching import spellings
from haiftrace.text.grams import GRAM, gram_hashes

FORMAT = 1
"""Of the keys; raised with whatever changes them."""


def text_keys(text: str) -> np.ndarray:
    """[n] uint32 keys of a text, ascending, each once."""
    days = {day[1:] for span in find_dates(fold_numbers(text).text) for day in span.days}
    keys = [gram_hashes(canonical_of(view).text) for view in views(text)]
    keys += [_day_key(*day) for day in sorted(days)]
    return np.unique(np.concatenate(keys))


def value_keys(value: str) -> list[np.ndarray] | None:
    """Alternatives: the keys of a text that holds a value are a superset of one of them.

    None where every text may hold it: it is too short for a key.
    """
    forms = spellings(value)
    if any(len(form) < GRAM for form in forms):
        return None
    days = {day[1:] for day in days_of(value)}
    return [*map(gram_hashes, forms), *(_day_key(*day) for day in sorted(days))]


def _day_key(month: int, day: int) -> np.ndarray:
    # Of characters that no canonical form has.
    return gram_hashes(f"{month:02d}-{day:02d}")
