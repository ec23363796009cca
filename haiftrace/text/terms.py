"""Texts cut into normalised terms, each with its place in the original text.

- The text is cut into characters, each with the combining marks, vowel jamo and final jamo that
  follow it. Soft hyphens, joiners and variation selectors are left out.
- Each is normalised by itself: NFKC, case folding, NFKC. So `Ｊｏｓé`, `JOSÉ` and `josé` agree,
  composed or not, and `㎏` is `kg`. Accents are kept, and so are the digits of each script.
- Letters and digits in a row are one term. Everything else separates terms, the underscore
  included: `john.doe@mail.com` has four, `+1 (555) 014-2000` too.
- Han, Hiragana, Katakana and Hangul in a row give each pair of neighbours, and a single character
  itself. Thai and other scripts without spaces are not cut any further.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

# ASCII separates terms by itself; what another character does is seen when it is normalised.
_RUN = re.compile("[0-9A-Za-z\x80-\U0010ffff]+")
_IGNORED = re.compile("[\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_LATER_JAMO = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")
_CJK = re.compile(
    "[\u1100-\u11ff\ua960-\ua97c\uac00-\ud7fb"  # Hangul
    "\u3041-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"  # Hiragana and Katakana
    "\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U0003ffff]"
)
# A normal form takes quadratic time in the number of marks on a character.
_MOST_MARKS = 32


class Term(NamedTuple):
    """A normalised term and its place [start, end) in the original text."""

    text: str
    start: int
    end: int


class _Character(NamedTuple):
    """A normalised character with its marks: of a word, CJK, or neither ("")."""

    kind: str
    text: str
    start: int
    end: int


def terms(text: str) -> list[Term]:
    """The terms of a text, in order; the rules are the module's."""
    result: list[Term] = []
    for run in _RUN.finditer(text):
        if run.group().isascii():
            result.append(Term(run.group().lower(), run.start(), run.end()))
            continue
        for kind, group in groupby(_characters(run.group(), run.start()), attrgetter("kind")):
            if kind == "word":
                result.append(_joined(list(group)))
            elif kind == "cjk":
                result += _bigrams(list(group))
    return result


def _bigrams(characters: list[_Character]) -> list[Term]:
    if len(characters) == 1:
        return [_joined(characters)]
    return [_joined(list(pair)) for pair in pairwise(characters)]


def _joined(characters: list[_Character]) -> Term:
    text = "".join(character.text for character in characters)
    return Term(text, characters[0].start, characters[-1].end)


def _characters(run: str, offset: int) -> Iterator[_Character]:
    start = 0
    for end in range(1, len(run) + 1):
        if end < len(run) and end - start < _MOST_MARKS and _continues(run[end]):
            continue
        for kind, text in _normalised(run[start:end]):
            yield _Character(kind, text, offset + start, offset + end)
        start = end


@lru_cache(maxsize=1 << 16)
def _continues(character: str) -> bool:
    """Whether it belongs to the character before it."""
    first = unicodedata.normalize("NFKC", character)[:1]
    return _is_mark(first) or any(p.match(first) for p in (_IGNORED, _LATER_JAMO))


@lru_cache(maxsize=1 << 16)
def _normalised(cluster: str) -> tuple[tuple[str, str], ...]:
    """Kind and text of what a character and its marks become: four for `㍿`, none for a joiner."""
    visible = unicodedata.normalize("NFKC", _IGNORED.sub("", cluster))
    normalised: list[tuple[str, str]] = []
    for character in unicodedata.normalize("NFKC", visible.casefold()):
        if not _is_mark(character):
            normalised.append((_kind(character), character))
        elif normalised:
            kind, base = normalised[-1]
            normalised[-1] = (kind, base + character)
    return tuple(normalised)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Mc"}


def _kind(character: str) -> str:
    if not character.isalnum():
        return ""
    return "cjk" if _CJK.match(character) else "word"
