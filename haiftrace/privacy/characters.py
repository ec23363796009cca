"""What a reader takes a character for: one dash, one space, one digit, or nothing at all."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

# Digits as Chinese and Japanese write them out: a phone number may be said in them.
CHINESE_DIGITS = {sign: str(value) for value, sign in enumerate("零一二三四五六七八九")} | {
    "〇": "0",
    "○": "0",
}

_DASHES = frozenset(
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u02d7\ufe58\ufe63\uff0d\u1806"
)
_APOSTROPHES = frozenset("\u2018\u2019\u02bc\u2032\uff07\u00b4")
_BREAKS = frozenset("\u0085\u2028\u2029\x0b\x0c")
# Default-ignorable characters that are no format characters (Unicode's DerivedCoreProperties).
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_KEPT_SIGNS = frozenset("@.-_+()/:,;#&'\"%=~[]{}<>*!?$ ")


@lru_cache(maxsize=8192)
def plain(character: str) -> str:
    """A character of a text as a reader takes it: none where it is invisible, of half width.

    Line breaks stay such; superscripts stay as they are, since they may be a footnote's.
    """
    if character in _DASHES:
        return "-"
    if character in _APOSTROPHES:
        return "'"
    if character in _BREAKS:
        return "\n"
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if is_invisible(character, category):
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "No":
        return character
    folded = unicodedata.normalize("NFKC", character)
    if all(sign.isalnum() or sign in _KEPT_SIGNS for sign in folded):
        return folded
    return folded if len(folded) == 1 else character


def is_invisible(character: str, category: str = "") -> bool:
    """Whether it leaves no trace in print: zero-width, bidi and other controls, selectors."""
    category = category or unicodedata.category(character)
    if category in {"Cf", "Cc"}:
        return character not in "\t\n\r"
    return (
        character in _IGNORABLE
        or "\ufe00" <= character <= "\ufe0f"
        or "\u180b" <= character <= "\u180f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


def is_wordless_script(character: str) -> bool:
    """Whether it is of a script that puts no space between words, as far as values go."""
    return (
        "\u2e80" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\u0e00" <= character <= "\u0fff"
        or character >= "\U00020000"
    )


@lru_cache(maxsize=8192)
def bare(character: str) -> str:
    """Letters without case and accents, digits in ASCII; nothing of any other character."""
    if character.isascii():
        return character.lower() if character.isalnum() else ""
    if character in CHINESE_DIGITS:
        return CHINESE_DIGITS[character]
    folded = []
    for sign in unicodedata.normalize("NFKD", character).casefold():
        if sign.isdigit():
            folded.append(str(unicodedata.digit(sign)))
        elif sign.isalnum():
            folded.append(sign)
    return "".join(folded)
