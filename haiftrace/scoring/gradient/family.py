"""The family of methods over full gradients of one checkpoint: HAIF and kin, EK-FAC, LiSSA."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from haiftrace.methods import EK_FAC, GradientMethod
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.family import QueryScores, Ranking, Rankings, ScoringQuery, ScoringRun
from haiftrace.scoring.gradient.batch import StackedQueries, stacked, weighted_dots
from haiftrace.scoring.gradient.exact import GradientSearch, score_by_gradient
from haiftrace.scoring.gradient.full_gradients import FullGradientFamily
from haiftrace.scoring.gradient.norms import NormSource, needs_of
from haiftrace.scoring.gradient.query_vectors import (
    QueryGradient,
    QueryPreconditioner,
    QueryVector,
)
from haiftrace.scoring.indexed_model import keeping_command
from haiftrace.scoring.top_records import TopRecords

BY_DIRECT = "candidates were proposed by token vectors of direct gradients (--exact scores all)"


class GradientFamily(FullGradientFamily):
    """Scores an index's windows by methods over full gradients."""

    def query_bytes(self, methods: Sequence[GradientMethod]) -> int:
        """Bytes of v, and of u for every preconditioner, each held twice."""
        preconditioners = {method.preconditioner for method in methods}
        return self._model.engine.gradient_bytes * (2 + 2 * len(preconditioners))

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[GradientMethod], run: ScoringRun
    ) -> Rankings:
        """Exact scores of the candidates, by one pass for all queries (see `score_by_gradient`).

        Raises:
            UsageError: a curvature has no inverse, or a series diverges.
        """
        model = self._model
        preconditioners = {method.preconditioner for method in methods}
        preconditioner = self._preconditioner(run)
        proposed = model.candidates.of([query.batch for query in queries], run.budget)
        searches, records, notes = [], [], []
        for query, rows in zip(queries, proposed, strict=True):
            gradient = QueryGradient(model.engine, query)
            vectors, of_vectors = preconditioner.vectors(preconditioners, gradient)
            tops = {method.name: TopRecords(run.top) for method in methods}
            add = {name: top.add for name, top in tops.items()}
            searches.append(GradientSearch(rows, vectors, gradient.vector.norm, add))
            records.append(tops)
            notes.append(of_vectors)
        norms = self._norms(methods, run)
        self._offer_to_keep(norms, methods, run)
        score_by_gradient(
            model.index, model.engine, searches, methods, run.rule, norms, run.progress
        )
        return [
            {
                method.name: Ranking(
                    tops[method.name].result(),
                    QueryScores(*tops[method.name].scores(), method.score_scale(search.query_norm)),
                    (
                        *([BY_DIRECT] if len(search.rows) < len(model.index) else []),
                        *of_vectors.get(method.preconditioner, ()),
                    ),
                )
                for method in methods
            }
            for search, tops, of_vectors in zip(searches, records, notes, strict=True)
        ]

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        methods: Sequence[GradientMethod],
        run: ScoringRun,
    ) -> Mapping[str, Sequence[QueryScores]]:
        """Exact scores of methods that sum over tokens, of every window that any query wants.

        Memory holds the vectors of all queries for one preconditioner at a time.
        """
        assert run.rule.combine == "sum" or not any(method.adjusted for method in methods)
        model, progress = self._model, run.progress
        union = np.array(sorted(set().union(*rows)), dtype=np.int64)
        norms = self._norms(methods, run)
        scores: dict[str, list[QueryScores]] = {}
        names = list(dict.fromkeys(method.preconditioner for method in methods))
        for number, name in enumerate(names):
            here = [method for method in methods if method.preconditioner == name]
            stack = stacked(model.engine, self._vectors(queries, name, run), len(queries))
            # A preconditioner may report work of its own: what is left is stated anew after it.
            progress.start("scoring records", float(len(union) * (len(names) - number)))
            scores_MQN = self._score_rows(union, here, stack, norms, run)
            for method, scores_QN in zip(here, scores_MQN, strict=True):
                scores[method.name] = [
                    _of_rows(union, scores_N, each, method.score_scale(float(query_norm)))
                    for scores_N, each, query_norm in zip(
                        scores_QN, rows, stack.query_norm_Q, strict=True
                    )
                ]
        return scores

    def _score_rows(
        self,
        rows_N: np.ndarray,
        methods: Sequence[GradientMethod],
        queries: StackedQueries,
        norms: NormSource,
        run: ScoringRun,
    ) -> np.ndarray:
        """[methods, Q, N] of methods with the same preconditioner."""
        model = self._model
        scores_MQN = np.zeros((len(methods), len(queries.norm_Q), len(rows_N)))
        over_Q = queries.over_query_norm_Q
        for windows in window_batches(model.index, rows_N.tolist(), model.engine.device):
            batch_norms = norms.of(windows, batch_of(windows, model.engine.device))
            factors = [
                [method.token_factors(window_norms, run.rule) for window_norms in batch_norms]
                for method in methods
            ]
            dots_MBQ = weighted_dots(model.engine, windows, factors, queries)
            columns = np.searchsorted(rows_N, [window.row for window in windows])
            for scores_QN, dots_BQ, method in zip(scores_MQN, dots_MBQ, methods, strict=True):
                scaled_BQ = dots_BQ * (over_Q if method.over_query_norm else 1.0)
                scores_QN[:, columns] = scaled_BQ.T
            run.progress.advance(len(windows), tokens=token_count(windows))
        return scores_MQN

    def _vectors(
        self, queries: Sequence[ScoringQuery], preconditioner: str, run: ScoringRun
    ) -> Iterator[tuple[QueryVector, float]]:
        """U and ‖v‖ of each query, no gradient kept but in what is returned."""
        preconditioned = self._preconditioner(run)
        for query in queries:
            gradient = QueryGradient(self._model.engine, query)
            vectors, _ = preconditioned.vectors([preconditioner], gradient)
            yield vectors[preconditioner], gradient.vector.norm

    def _preconditioner(self, run: ScoringRun) -> QueryPreconditioner:
        return QueryPreconditioner(
            self._model.curvature(run.settings, run.progress),
            self._model.lissa(run.settings, run.progress),
        )

    def _norms(self, methods: Sequence[GradientMethod], run: ScoringRun) -> NormSource:
        model = self._model
        curvature = model.curvature(run.settings, run.progress)
        needs = needs_of(methods, run.rule)
        return NormSource(model.index, model.engine, curvature, needs, run.rule)

    def _offer_to_keep(
        self, norms: NormSource, methods: Sequence[GradientMethod], run: ScoringRun
    ) -> None:
        if not norms.missing:
            return
        chosen = [m.name for m in methods if m.metric == EK_FAC or m.adjusted]
        keep = keeping_command(self._model.index, ",".join(chosen), run.settings)
        run.progress.say(
            "Norms that these methods divide by are computed for this run. To keep them in the"
            f" index: {keep}"
        )


def _of_rows(
    union_N: np.ndarray, scores_N: np.ndarray, rows: Collection[int], scale: float
) -> QueryScores:
    """Of the windows that a query wants alone: what other queries had scored is not its own."""
    if len(rows) == len(union_N):
        return QueryScores(union_N, scores_N, scale)
    own_N = np.isin(union_N, list(rows))
    return QueryScores(union_N[own_N], scores_N[own_N], scale)
