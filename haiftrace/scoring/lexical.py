"""Scores of lexical search, so that a trace shows what looking for the words would have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from haiftrace.methods import LexicalMethod
from haiftrace.scoring.top_records import Best, Scored
from haiftrace.store import Index
from haiftrace.text.bm25 import LexicalIndex


class WordScorer:
    """BM25 over the texts of an index's windows; made once, for any number of leaks."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lexical = LexicalIndex(window.text for window in index.iter_windows())

    def score(
        self,
        methods: Sequence[LexicalMethod],
        prompt: str,
        response: str,
        best: Mapping[str, Best],
        top: int,
    ) -> None:
        """Scores every window by every method; see `score_by_gradient`.

        Args:
            response: what is traced of it.
            top: records that are wanted: only their best windows are read.
        """
        records = self._index.column("record")
        for method in methods:
            query = _query(method, prompt, response)
            scores = self._lexical.scores(query)
            for row in _best_rows(scores, records, top):
                (window,) = self._index.iter_windows([row])
                evidence = self._lexical.evidence(query, row, window.text, window.offsets)
                best[method.name].add(Scored(window, float(evidence.sum()), None, evidence))

    def scores(self, method: LexicalMethod, prompt: str, response: str) -> np.ndarray:
        """[N] the score of every window."""
        return self._lexical.scores(_query(method, prompt, response))


def _query(method: LexicalMethod, prompt: str, response: str) -> str:
    return f"{prompt} {response}" if method.with_prompt else response


def _best_rows(scores: np.ndarray, records: np.ndarray, top: int) -> list[int]:
    """The best row of each of the `top` best records, ties by order in the corpus."""
    order = np.argsort(-scores, kind="stable")
    rows: dict[int, int] = {}
    for row in order:
        rows.setdefault(int(records[row]), int(row))
        if len(rows) == top:
            break
    return list(rows.values())
