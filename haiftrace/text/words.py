"""Tokens joined into the words of their text, as a person reads it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Scripts that put no space between words (Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer),
# with their punctuation: there a token is the word.
SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff00-\uffef\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
_JOINER = "\u200d"


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        start, end: character offsets; equal where the word covers none of the text.
        tokens: indices of the tokens that it consists of.
    """

    start: int
    end: int
    tokens: tuple[int, ...]

    def joined(self, other: Word) -> Word:
        """The word that spans both, up to the end that is farther."""
        return Word(self.start, max(self.end, other.end), self.tokens + other.tokens)


def group_words(text: str, places: Sequence[tuple[int, int]]) -> list[Word]:
    """Join tokens into the words of their text, in the order of the text.

    White space ends a word; in scripts that put none between words, so does every token. Tokens
    whose offsets overlap (pieces of one character of several bytes) fall into one word. A token
    that covers no text (a special one) is a word of its own and stands where its index puts it;
    so is one that covers white space only. Every token is in exactly one word. Offsets beyond the
    text count as covering none.

    Args:
        places: (start, end) of each token, character offsets in the text.
    """
    covering: list[Word] = []
    bare: list[Word] = []
    for index, place in enumerate(places):
        start, end = (min(max(at, 0), len(text)) for at in place)
        if start < end:
            covering.append(Word(start, end, (index,)))
        else:
            bare.append(Word(start, start, (index,)))
    covering.sort(key=lambda word: (word.start, word.end, word.tokens))
    grouped: list[Word] = []
    for word in _words(text, _merge_overlaps(text, covering)):
        while bare and bare[0].tokens[0] < min(word.tokens):
            grouped.append(bare.pop(0))
        grouped.append(word)
    return grouped + bare


def _merge_overlaps(text: str, spans: Sequence[Word]) -> list[Word]:
    """Join overlapping spans, then cut the white space off both ends (some tokenizers' own)."""
    joined: list[Word] = []
    for span in spans:
        if joined and span.start < joined[-1].end:
            joined[-1] = joined[-1].joined(span)
        else:
            joined.append(span)
    return [_trimmed(text, span) for span in joined]


def _trimmed(text: str, span: Word) -> Word:
    covered = text[span.start : span.end]
    if covered.isspace():
        return span
    start = span.start + len(covered) - len(covered.lstrip())
    return Word(start, start + len(covered.strip()), span.tokens)


def _words(text: str, spans: Sequence[Word]) -> list[Word]:
    words: list[Word] = []
    for span in spans:
        if words and not _is_boundary(text, words[-1].end, span.start):
            words[-1] = words[-1].joined(span)
        else:
            words.append(span)
    return words


def _is_boundary(text: str, end: int, start: int) -> bool:
    """Whether a word that ends at `end` and a span that starts at `start` stay apart."""
    seam = text[end - 1 : start + 1]
    if any(character.isspace() for character in seam):
        return True
    return any(
        not _extends(left, right) and bool(SPACELESS.match(left) or SPACELESS.match(right))
        for left, right in pairwise(seam)
    )


def _extends(left: str, right: str) -> bool:
    """Whether `right` continues the character that `left` begins: as a mark, or after a joiner."""
    return _JOINER in (left, right) or unicodedata.category(right) in {"Mn", "Mc", "Me"}
