"""A text as a person reads it, and where in the original each of its characters stands.

Detectors, matching and masks all look at the folded text, and act on the original. One pass over
the text a layer; a text that is plain already costs a search for what is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from haiftrace.privacy import escapes
from haiftrace.privacy.characters import CHINESE_DIGITS, plain

Piece = tuple[int, int, str]
"""Characters [start, end) of a text, and what stands in their place."""

_ESCAPED = re.compile(r"[\\%&<`]|\*\*|__")
_MOST_LAYERS = 3
"""Escapes of escapes that are undone: JSON in JSON, an entity in a URL."""
_UNUSUAL = re.compile(
    r"[〇零一二三四五六七八九]{7,}"  # a number said digit by digit
    r"|[^\W\d_][\u0300-\u036f]+"  # a letter and its accents
    r"|\r\n?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[^\x00-\x7f]"
)
# What stands between two digits of a number, however wide it is set.
_BETWEEN_DIGITS = re.compile(r"(?<=[\d)])(?:[ \t\n]*[-./_~ー][ \t\n]*|[ \t\n]{2,})(?=[\d(])")

ENDINGS = frozenset(
    (
        *("com", "org", "net", "edu", "gov", "info", "biz", "example", "test", "invalid", "io"),
        *("co", "me", "app", "dev", "ai", "eu", "uk", "de", "fr", "es", "it", "pt", "nl", "be"),
        *("ch", "at", "pl", "cz", "se", "no", "dk", "fi", "ie", "us", "ca", "mx", "br", "ar", "cl"),
        *("in", "cn", "jp", "kr", "ru", "ua", "au", "nz", "za", "tr", "gr"),
    )
)
"""Top-level domains that are common enough to tell an address that is cut, or in words."""
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_AT = (
    r"(?:\s*[\[({<]\s*(?:at|@|ät|arroba|chez)\s*[\])}>]\s*|\s+(?:at|AT|arroba|chiocciola|ät)\s+"
    r"|[ \t]+@[ \t]*|@[ \t]+)"
)
_DOT = (
    r"(?:\s*[\[({<]\s*(?:dot|\.|punkt|punto|point|ponto)\s*[\])}>]\s*"
    r"|\s+(?:dot|DOT|punkt|punto|point|ponto)\s+)"
)
_MAIL_WORD = re.compile(
    r"(?:\be-?mail|\bmail|\bwrite|\bcontact|courriel|correo)[^.\n]{0,32}\Z", re.I
)
_SPELLED_AT = re.compile(_AT, re.IGNORECASE)
_BEFORE_AT = re.compile(rf"(?<![\w.-])[\w+-]{{1,64}}(?:(?:{_DOT}|\.)[\w+-]{{1,64}}){{0,4}}\Z", re.I)
_AFTER_AT = re.compile(
    rf"{_LABEL}(?:(?:{_DOT}|\.){_LABEL}){{0,4}}(?P<dot>{_DOT}|\.)(?P<ending>[A-Za-z]{{2,24}})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
# Words that a reader takes for no name: "find us @ example.com" names a site.
_NO_NAME = re.compile(
    r"(?:us|me|it|them|look|here|more|now|live|online|available|visit|join|shop|and|or|only|site"
    r"|website)\Z",
    re.IGNORECASE,
)
_SPELLED_DOT = re.compile(_DOT, re.IGNORECASE)
_ANY_DOT = re.compile(rf"{_DOT}|\.", re.IGNORECASE)
_BEFORE_MOST = 160


@dataclass(frozen=True)
class Folded:
    """A text as it is read.

    Attributes:
        text: what is read.
        starts, ends: for each character of it the characters [start, end) of the original.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Characters [start, end) of the folded text, which are not none, in the original."""
        return self.starts[start], self.ends[end - 1]

    def replaced(self, pieces: Iterable[Piece]) -> Folded:
        """The text with pieces of it replaced; they stand in order and do not overlap."""
        text: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for start, end, meaning in pieces:
            if start < at:
                continue
            text.append(self.text[at:start])
            starts.extend(self.starts[at:start])
            ends.extend(self.ends[at:start])
            if meaning:
                text.append(meaning)
                starts.extend([self.starts[start]] * len(meaning))
                ends.extend([self.ends[end - 1]] * len(meaning))
            at = end
        if not at:
            return self
        text.append(self.text[at:])
        starts.extend(self.starts[at:])
        ends.extend(self.ends[at:])
        return Folded("".join(text), starts, ends)


@lru_cache(maxsize=512)
def fold(text: str) -> Folded:
    """The text as it is read: escapes undone, one kind of dash, space and digit, "at" as @."""
    folded = fold_characters(text)
    for _ in range(_MOST_LAYERS):
        if not _ESCAPED.search(folded.text):
            break
        undone = folded.replaced(escapes.pieces(folded.text))
        if undone is folded:
            break
        folded = _with_plain_characters(undone)
    return folded.replaced(_spelled_signs(folded.text))


@lru_cache(maxsize=512)
def fold_characters(text: str) -> Folded:
    """The text with one kind of dash, space and digit, escapes as they stand."""
    return _with_plain_characters(Folded(text, range(len(text)), range(1, len(text) + 1)))


@lru_cache(maxsize=512)
def fold_numbers(text: str) -> Folded:
    """The folded text with a single sign between two digits, however many stood there."""
    folded = fold(text)
    return folded.replaced(
        (match.start(), match.end(), _separator(match[0]))
        for match in _BETWEEN_DIGITS.finditer(folded.text)
    )


def views(text: str) -> tuple[Folded, ...]:
    """The ways in which a text may be read: what looks like an escape may be none (`C:\\nancy`)."""
    folded, literal = fold(text), fold_characters(text)
    return (folded,) if folded.text == literal.text else (folded, literal)


def join_lines(folded: Folded, joints: re.Pattern[str]) -> Folded:
    """The text without the line breaks that `joints` matches, as before it was wrapped."""
    return folded.replaced((m.start(), m.end(), "") for m in joints.finditer(folded.text))


def _separator(signs: str) -> str:
    for sign in signs:
        if not sign.isspace():
            return "-" if sign in "_~ー" else sign
    return "\n" if "\n" in signs else " "


def _with_plain_characters(folded: Folded) -> Folded:
    return folded.replaced(
        (match.start(), match.end(), _plain(match[0])) for match in _UNUSUAL.finditer(folded.text)
    )


def _plain(signs: str) -> str:
    if signs[0] == "\r":
        return "\n"
    if len(signs) == 1:
        return plain(signs)
    if signs[0] in CHINESE_DIGITS:
        return "".join(CHINESE_DIGITS[sign] for sign in signs)
    return unicodedata.normalize("NFC", signs)


def _spelled_signs(text: str) -> list[Piece]:
    """The signs of e-mail addresses that are written in words: "name at host dot org"."""
    pieces: list[Piece] = []
    for at in _SPELLED_AT.finditer(text):
        before = _BEFORE_AT.search(text, max(0, at.start() - _BEFORE_MOST), at.start())
        after = _AFTER_AT.match(text, at.end())
        if before is None or after is None or (pieces and pieces[-1][1] > before.start()):
            continue
        host = after[0]
        words = [*_SPELLED_DOT.finditer(text, before.start(), at.start())]
        words += [*_SPELLED_DOT.finditer(text, at.end(), after.end())]
        is_marked = any(sign in at[0] for sign in "[({<")
        # The ending may be followed by a file's: "name @ example.org.jsonl".
        is_ending = any(label.lower() in ENDINGS for label in _ANY_DOT.split(host)[1:])
        # "look at example.com" is no address, "mara.o at example.com" may be one.
        is_name = re.search(r"[._+\d]", before[0]) is not None
        is_spelled = after["dot"].strip() != "." and is_ending
        is_called = _MAIL_WORD.search(text, max(0, before.start() - 48), before.start())
        is_worded = re.search(r"[^\W\d_]", before[0]) and not _NO_NAME.match(before[0])
        is_spaced = "@" in at[0] and is_ending and is_worded
        is_likely = (is_name or is_called) and is_ending and "." in host
        if is_marked or is_spelled or is_spaced or is_likely:
            pieces += [(dot.start(), dot.end(), ".") for dot in words if dot.end() <= at.start()]
            pieces.append((at.start(), at.end(), "@"))
            pieces += [(dot.start(), dot.end(), ".") for dot in words if dot.start() >= at.end()]
    return pieces
