"""The family of the layerwise rule: one pass through the windows for all queries of a run.

Queries are taken in blocks whose per-token gradients fit the memory (see `scoring_pass`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from haiftrace.methods import LayerwiseMethod
from haiftrace.progress import Progress
from haiftrace.scoring.family import QueryScores, Ranking, Rankings, ScoringQuery, ScoringRun
from haiftrace.scoring.indexed_model import IndexedModel
from haiftrace.scoring.layerwise.scoring_pass import LayerwiseSearch, ScoringPass
from haiftrace.scoring.top_records import ScoredWindow, top_rows

QUERIES_OF_A_PASS = 512
"""Queries whose tokens share a pass through the windows, where their gradients fit the memory."""


class LayerwiseFamily:
    """Scores an index's windows by the layerwise rule (see `haiftrace.methods.layerwise`)."""

    def __init__(self, model: IndexedModel) -> None:
        self._model = model

    def notes(self) -> Sequence[str]:
        """What the user should know of the model's token gradients."""
        return self._model.similarity.notes

    def query_bytes(self, methods: Sequence[LayerwiseMethod]) -> int:
        """None: queries are divided here."""
        return 0

    def queries_of_a_pass(self, memory: int) -> int:
        """A fixed number: what does not fit the memory is divided here."""
        return QUERIES_OF_A_PASS

    def token_work(self) -> int:
        """Multiplications of the cosines of one query token and one label."""
        return self._model.similarity.token_cost.dot_work

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[LayerwiseMethod], run: ScoringRun
    ) -> Rankings:
        """Exact scores of the candidates and the reference's windows, with evidence of the top."""
        batches = [query.batch for query in queries]
        rows = self._model.candidates.of(batches, run.budget)
        searches = list(map(LayerwiseSearch, batches, rows))
        (method,) = methods
        return [{method.name: ranking} for ranking in self._rankings(searches, run)]

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        methods: Sequence[LayerwiseMethod],
        run: ScoringRun,
    ) -> Mapping[str, Sequence[QueryScores]]:
        """Exact scores of the rows and the reference's windows."""
        searches = list(map(LayerwiseSearch, (query.batch for query in queries), rows))
        passes = self._passes(searches, run.progress)
        scored = [scores for scoring_pass in passes for scores in scoring_pass.scored]
        return {method.name: scored for method in methods}

    def _rankings(self, searches: Sequence[LayerwiseSearch], run: ScoringRun) -> Iterator[Ranking]:
        record_N = self._model.index.column("record")
        for scoring_pass in self._passes(searches, run.progress):
            top = [
                top_rows(scores.scores_K, scores.rows_K, record_N, run.top)
                for scores in scoring_pass.scored
            ]
            explained: list[list[ScoredWindow]] = [[] for _ in top]
            for number, scored in scoring_pass.explain(top):
                explained[number].append(scored)
            for scores, windows in zip(scoring_pass.scored, explained, strict=True):
                # A window has one score: what its evidence sums to, where that was formed.
                rows = [scored.window.row for scored in windows]
                scores.put(rows, np.array([scored.score for scored in windows]))
                windows.sort(key=lambda scored: (-scored.score, scored.window.record))
                yield Ranking(tuple(windows), scores)

    def _passes(
        self, searches: Sequence[LayerwiseSearch], progress: Progress
    ) -> Iterator[ScoringPass]:
        model = self._model
        for block in self._blocks(searches):
            scoring_pass = ScoringPass(model.index, model.similarity, block, model.reference)
            scoring_pass.score(progress)
            yield scoring_pass

    def _blocks(self, searches: Sequence[LayerwiseSearch]) -> Iterator[Sequence[LayerwiseSearch]]:
        """Runs of searches whose query gradients fit the memory, of one at least."""
        if not searches:
            return
        token_bytes = self._model.similarity.token_cost.nbytes
        start, tokens = 0, 0
        for at, search in enumerate(searches):
            count = int(search.query.labels_BT.sum())
            if at > start and (tokens + count) * token_bytes > self._model.room:
                yield searches[start:at]
                start, tokens = at, 0
            tokens += count
        yield searches[start:]
