"""The family of search by words, so that a trace shows what looking for them finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from haiftrace.methods import LexicalMethod
from haiftrace.scoring.family import QueryScores, Ranking, Rankings, ScoringQuery, ScoringRun
from haiftrace.scoring.indexed_model import IndexedModel
from haiftrace.scoring.top_records import ScoredWindow, top_rows
from haiftrace.text.bm25 import LexicalIndex


class LexicalFamily:
    """BM25 over the texts of an index's windows; made once, for any number of queries."""

    def __init__(self, model: IndexedModel) -> None:
        self._index = model.index

    def notes(self) -> Sequence[str]:
        """None: no gradients are taken."""
        return ()

    def query_bytes(self, methods: Sequence[LexicalMethod]) -> int:
        """None."""
        return 0

    def queries_of_a_pass(self, memory: int) -> int:
        """One: nothing is shared between queries."""
        return 1

    def token_work(self) -> int:
        """None."""
        return 0

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[LexicalMethod], run: ScoringRun
    ) -> Rankings:
        """BM25 of every window."""
        everything = [range(len(self._index)) for _ in queries]
        scores = self.scores(queries, everything, methods, run)
        return [
            {
                method.name: Ranking(
                    self._records(query, method, scores[method.name][number], run.top),
                    scores[method.name][number],
                )
                for method in methods
            }
            for number, query in enumerate(queries)
        ]

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        methods: Sequence[LexicalMethod],
        run: ScoringRun,
    ) -> Mapping[str, Sequence[QueryScores]]:
        """BM25 of every window, by the method's name and then by query."""
        everything = np.arange(len(self._index))
        return {
            method.name: [
                QueryScores(everything, self._lexical.scores(_searched_text(method, query)))
                for query in queries
            ]
            for method in methods
        }

    @cached_property
    def _lexical(self) -> LexicalIndex:
        return LexicalIndex(window.text for window in self._index.iter_windows())

    def _records(
        self, query: ScoringQuery, method: LexicalMethod, scores: QueryScores, top: int
    ) -> tuple[ScoredWindow, ...]:
        """Only the best windows are read."""
        text = _searched_text(method, query)
        records = []
        for row in top_rows(scores.scores_K, scores.rows_K, self._index.column("record"), top):
            (window,) = self._index.iter_windows([row])
            evidence = self._lexical.evidence(text, row, window.text, window.offsets)
            records.append(ScoredWindow(window, float(evidence.sum()), None, evidence))
        return tuple(records)


def _searched_text(method: LexicalMethod, query: ScoringQuery) -> str:
    return f"{query.prompt} {query.response}" if method.with_prompt else query.response
