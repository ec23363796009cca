"""BM25 over the texts of record windows: the ranking of a plain text search.

The score of a record for a query is `Σ_t idf(t) · f / (f + k1 (1 − b + b · length/mean length))`
over the terms t of the query, a repeated one counted each time, with `f` how often t stands in the
record, lengths in terms, and Lucene's `idf(t) = ln(1 + (N − n + 0.5)/(n + 0.5))` for a term in n of
N records, which is positive even where n = N. k1 = 1.2 and b = 0.75 are Lucene's too. Sources:
Robertson and Zaragoza 2009; Kamphuis et al. 2020 for the variants ("Lucene (accurate)"); Lù 2024
(arXiv 2407.03618) for the library, bm25s. Terms are those of `haiftrace.text.terms`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from haiftrace.text.terms import terms

K1 = 1.2
B = 0.75


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
        numbers = self._known(query)
        if self._matrix is None or not numbers:
            return np.zeros(self._rows)
        scores: np.ndarray = self._matrix.get_scores_from_ids(numbers)
        return scores

    def evidence(
        self, query: str, row: int, text: str, spans: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """[T] float64: the row's score, distributed over the record's tokens.

        What a term of the query adds to the score is divided equally among its occurrences in the
        text, an occurrence's among the characters that a token covers, a character's among the
        tokens that cover it. What falls to no token (an occurrence, or a term, that none covers)
        goes to the others; where no occurrence is covered, to all characters that are. So the sum
        is the score, unless no token has any text.

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
        scores = _character_scores(self._contributions(query, row), self._places(text), tokens > 0)
        # A token's sum as a difference of running sums; these never fall, so it is not negative.
        running = np.concatenate([[0.0], np.cumsum(scores / np.maximum(tokens, 1))])
        result: np.ndarray = running[ends] - running[starts]
        return result

    def _known(self, query: str) -> list[int]:
        """The numbers of the query's terms that any record holds, repeated ones repeated."""
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

    def _contributions(self, query: str, row: int) -> dict[int, float]:
        """What each term of the query adds to the row's score, by the term's number.

        Made of the matrix entries that `scores` adds up.
        """
        assert 0 <= row < self._rows
        contributions: dict[int, float] = {}
        for number in self._known(query):
            assert self._matrix is not None
            columns = self._matrix.scores  # compressed: one column a term
            column = slice(*columns["indptr"][number : number + 2])
            entry = columns["data"][column][columns["indices"][column] == row]
            if entry.size:
                contributions[number] = contributions.get(number, 0.0) + float(entry[0])
        return contributions


def _character_scores(
    contributions: dict[int, float], places: dict[int, list[slice]], covered: np.ndarray
) -> np.ndarray:
    """[characters] What each character of a text adds to a score.

    Args:
        contributions: what each term adds, all positive.
        places: where each term stands.
        covered: [characters] whether a token covers it.
    """
    if not contributions.keys() <= places.keys():
        raise ValueError("the text is not the one that the row was built from")
    scores = np.zeros(len(covered))
    for number, contribution in contributions.items():
        seen = [place for place in places[number] if covered[place].any()]
        for place in seen:
            scores[place] += covered[place] * (contribution / len(seen) / covered[place].sum())
    if contributions and not scores.any():
        scores += covered
    if not scores.any():
        return scores
    return scores * (sum(contributions.values()) / scores.sum())


def _score_matrix(rows: list[list[int]], vocabulary: dict[str, int]) -> Any:
    """The library's index of records given as numbers of terms, at least a term among them."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # the library sets DEBUG
    matrix = bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64", backend="numpy")
    matrix.index((rows, vocabulary), create_empty_token=False, show_progress=False)
    return matrix
