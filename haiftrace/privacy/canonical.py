"""Texts up to case, spacing, width and punctuation, with the place of every character kept."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Digits as Chinese and Japanese write them out: a phone number may be said in them.
_CHINESE_DIGITS = {sign: str(value) for value, sign in enumerate("零一二三四五六七八九")} | {
    "〇": "0",
    "○": "0",
}


@dataclass(frozen=True)
class Canonical:
    """What is left of a text when two spellings of the same value must be the same.

    Attributes:
        text: letters without case and accents, digits in ASCII; nothing else.
        origin: for every character of `text` the index in the original that it came from.
    """

    text: str
    origin: tuple[int, ...]


def canonical(text: str) -> Canonical:
    """Leave out what spellings differ in: `(555) 01-34`, `５５５ ０１３４` are `5550134`."""
    signs: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        for sign in _fold(character):
            signs.append(sign)
            origin.append(index)
    return Canonical("".join(signs), tuple(origin))


def same_width(text: str) -> str:
    """The text in half-width characters where they have one, as long as before."""
    if text.isascii():
        return text
    folded = (unicodedata.normalize("NFKC", character) for character in text)
    return "".join(new if len(new) == 1 else old for old, new in zip(text, folded, strict=True))


def is_wordless_script(character: str) -> bool:
    """Whether it is of a script that puts no space between words, as far as values go."""
    return (
        "\u2e80" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or ("\u0e00" <= character <= "\u0fff")
        or character >= "\U00020000"
    )


@lru_cache(maxsize=8192)
def _fold(character: str) -> str:
    if character.isascii():
        return character.lower() if character.isalnum() else ""
    if character in _CHINESE_DIGITS:
        return _CHINESE_DIGITS[character]
    folded = []
    for sign in unicodedata.normalize("NFKD", character).casefold():
        if sign.isdigit():
            folded.append(str(unicodedata.digit(sign)))
        elif sign.isalnum():
            folded.append(sign)
    return "".join(folded)
