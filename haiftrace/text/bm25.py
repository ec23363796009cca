"""BM25 over the texts of record windows: what plain search would have found.

The score of a record for a query is `Σ_t idf(t) · f / (f + k1 (1 − b + b · length/mean length))`
over the terms t of the query, a repeated one counted each time, with `f` how often t stands in the
record, lengths in terms, and Lucene's `idf(t) = ln(1 + (N − n + 0.5)/(n + 0.5))` for a term in n of
N records, which is positive even where n = N. k1 = 1.2 and b = 0.75 are Lucene's too. Sources:
Robertson and Zaragoza 2009; Kamphuis et al. 2020 for the variants ("Lucene (accurate)"); Lù 2024
(arXiv 2407.03618) for the library, bm25s.

Terms are our own, so that each has its place in the original text:

- The text is cut into characters, each with the combining marks, vowel jamo and final jamo that
  follow it. Soft hyphens, joiners and variation selectors are left out.
- Each is normalised by itself: NFKC, case folding, NFKC. So `Ｊｏｓé`, `JOSÉ` and `josé` agree,
  composed or not, and `㎏` is `kg`. Accents are kept, and so are the digits of each script.
- Letters and digits in a row are one term. Everything else parts terms, the underscore included:
  `john.doe@mail.com` has four, `+1 (555) 014-2000` too.
- Han, Hiragana, Katakana and Hangul in a row give each pair of neighbours, and a single character
  itself. Thai and other scripts without spaces are not cut any further.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

K1 = 1.2
B = 0.75

# ASCII parts terms by itself; what another character does is seen when it is normalised.
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


class _Piece(NamedTuple):
    """A normalised character with its marks: of a word, CJK, or neither ("")."""

    kind: str
    text: str
    start: int
    end: int


def terms(text: str) -> list[Term]:
    """The terms of a text, in order; the rules are the module's."""
    found: list[Term] = []
    for run in _RUN.finditer(text):
        if run.group().isascii():
            found.append(Term(run.group().lower(), run.start(), run.end()))
            continue
        for kind, group in groupby(_pieces(run.group(), run.start()), lambda piece: piece.kind):
            if kind == "word":
                found.append(_joined(list(group)))
            elif kind == "cjk":
                found += _bigrams(list(group))
    return found


def _bigrams(pieces: list[_Piece]) -> list[Term]:
    if len(pieces) == 1:
        return [_joined(pieces)]
    return [_joined(list(pair)) for pair in pairwise(pieces)]


def _joined(pieces: list[_Piece]) -> Term:
    return Term("".join(piece.text for piece in pieces), pieces[0].start, pieces[-1].end)


def _pieces(run: str, offset: int) -> Iterator[_Piece]:
    start = 0
    for end in range(1, len(run) + 1):
        if end < len(run) and end - start < _MOST_MARKS and _continues(run[end]):
            continue
        for kind, text in _normalised(run[start:end]):
            yield _Piece(kind, text, offset + start, offset + end)
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
    pieces: list[tuple[str, str]] = []
    for character in unicodedata.normalize("NFKC", visible.casefold()):
        if not _is_mark(character):
            pieces.append((_kind(character), character))
        elif pieces:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + character)
    return tuple(pieces)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Mc"}


def _kind(character: str) -> str:
    if not character.isalnum():
        return ""
    return "cjk" if _CJK.match(character) else "word"


class LexicalIndex:
    """BM25 over the texts of N record windows (Lucene's variant, k1 = 1.2, b = 0.75).

    The texts are read once, in row order, and not kept. What stays in memory is the sparse matrix
    of terms, 12 bytes for each term of each record that it stands in (80 while it is built), and
    the vocabulary, about 200 bytes a term.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        number = self._vocabulary.setdefault
        rows = [[number(t.text, len(self._vocabulary)) for t in terms(text)] for text in texts]
        self._rows = len(rows)
        self._matrix = _score_matrix(rows, self._vocabulary) if self._vocabulary else None

    def scores(self, query: str) -> np.ndarray:
        """[N] float64, the score of each row; 0 where no term of the query stands."""
        found = self._known(query)
        if self._matrix is None or not found:
            return np.zeros(self._rows)
        scores: np.ndarray = self._matrix.get_scores_from_ids(found)
        return scores

    def evidence(
        self, query: str, row: int, text: str, spans: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """[T] float64: the row's score, shared out over the record's tokens.

        What a term of the query adds to the score is shared equally by its occurrences in the text,
        an occurrence's part by the characters that a token covers, a character's by the tokens that
        cover it. What falls to no token (an occurrence, or a term, that none covers) goes to the
        others; where not one occurrence is covered, to all characters that are. So the sum is the
        score, unless no token has any text.

        Args:
            query: as for `scores`.
            row: the record's.
            text: the record's, as the index was built from it.
            spans: [T] where each token stands in the text; (0, 0) for a token without text.

        Raises:
            ValueError: the text is not the row's, or a span is not in it.
        """
        starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
        if np.any((starts < 0) | (ends < starts) | (ends > len(text))):
            raise ValueError("a token's span is not in the text")
        openings, closings = (np.bincount(x, minlength=len(text) + 1) for x in (starts, ends))
        tokens = np.cumsum(openings - closings)[:-1]  # how many cover each character
        shares = _shares(self._parts(query, row), self._places(text), tokens > 0)
        # A token's sum as a difference of running sums; these never fall, so it is not negative.
        running = np.concatenate([[0.0], np.cumsum(shares / np.maximum(tokens, 1))])
        result: np.ndarray = running[ends] - running[starts]
        return result

    def _known(self, query: str) -> list[int]:
        """The numbers of the query's terms that stand in some record, repeated ones repeated."""
        numbers = (self._vocabulary.get(term.text) for term in terms(query))
        return [number for number in numbers if number is not None]

    def _places(self, text: str) -> dict[int, list[slice]]:
        """Where each term stands in the text, by the term's number."""
        places: dict[int, list[slice]] = {}
        for term in terms(text):
            if term.text in self._vocabulary:
                number = self._vocabulary[term.text]
                places.setdefault(number, []).append(slice(term.start, term.end))
        return places

    def _parts(self, query: str, row: int) -> dict[int, float]:
        """What each term of the query adds to the row's score, by the term's number.

        Made of the matrix entries that `scores` adds up.
        """
        assert 0 <= row < self._rows
        parts: dict[int, float] = {}
        for number in self._known(query):
            assert self._matrix is not None
            columns = self._matrix.scores  # compressed: one column a term
            column = slice(*columns["indptr"][number : number + 2])
            entry = columns["data"][column][columns["indices"][column] == row]
            if entry.size:
                parts[number] = parts.get(number, 0.0) + float(entry[0])
        return parts


def _shares(
    parts: dict[int, float], places: dict[int, list[slice]], covered: np.ndarray
) -> np.ndarray:
    """Each character's share [characters] of what the terms add to a score.

    Args:
        parts: what each term adds, all positive.
        places: where each term stands.
        covered: [characters] whether a token covers it.
    """
    if not parts.keys() <= places.keys():
        raise ValueError("the text is not the one that the row was built from")
    shares = np.zeros(len(covered))
    for number, part in parts.items():
        seen = [place for place in places[number] if covered[place].any()]
        for place in seen:
            shares[place] += covered[place] * (part / len(seen) / covered[place].sum())
    if parts and not shares.any():
        shares += covered
    if not shares.any():
        return shares
    return shares * (sum(parts.values()) / shares.sum())


def _score_matrix(rows: list[list[int]], vocabulary: dict[str, int]) -> Any:
    """The library's index of records given as numbers of terms, at least one term among them."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # the library sets DEBUG
    matrix = bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64", backend="numpy")
    matrix.index((rows, vocabulary), create_empty_token=False, show_progress=False)
    return matrix
