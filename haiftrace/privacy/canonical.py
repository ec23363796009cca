"""Texts up to case, spacing, width, escapes and punctuation, every character's place kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.privacy.characters import bare
from haiftrace.privacy.folding import Folded, fold


@dataclass(frozen=True)
class Canonical:
    """What is left of a text when two spellings of the same value must be the same.

    Attributes:
        text: letters without case and accents, digits in ASCII; nothing else.
        origin: for every character of `text` the index in the folded text that it came from.
    """

    text: str
    origin: Sequence[int]


def canonical(text: str) -> Canonical:
    """Leave out what spellings differ in: `(555) 01-34`, `５５５ ０１３４` are `5550134`."""
    return canonical_of(fold(text))


def canonical_of(folded: Folded) -> Canonical:
    """The same of a text that is folded already, in whichever way."""
    signs: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(folded.text):
        for sign in bare(character):
            signs.append(sign)
            origin.append(index)
    return Canonical("".join(signs), origin)
