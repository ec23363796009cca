"""The family of methods over the checkpoints of a training run: TracInCP and ATTIF."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from haiftrace.checkpoint.trajectory import TrainingTrajectory
from haiftrace.methods import Rule, TrajectoryMethod
from haiftrace.methods.families import inverse
from haiftrace.scoring.batches import token_count, window_batches
from haiftrace.scoring.family import QueryScores, Ranking, Rankings, ScoringQuery, ScoringRun
from haiftrace.scoring.gradient.batch import StackedQueries, stacked, weighted_dots
from haiftrace.scoring.gradient.full_gradients import FullGradientFamily
from haiftrace.scoring.gradient.query_vectors import gradient_vectors
from haiftrace.scoring.indexed_model import keeping_command
from haiftrace.scoring.top_records import TopRecords
from haiftrace.scoring.trajectory.sums import (
    SUPPLEMENT,
    TrajectorySums,
    attif_settings,
    training_run,
)
from haiftrace.store import Index, StoredWindow


class TrajectoryFamily(FullGradientFamily):
    """Scores an index's windows by methods over a training run."""

    def query_bytes(self, methods: Sequence[TrajectoryMethod]) -> int:
        """Bytes of v at the traced checkpoint, and at the one that is visited."""
        return self._model.engine.gradient_bytes * 2

    def trace(
        self, queries: Sequence[ScoringQuery], methods: Sequence[TrajectoryMethod], run: ScoringRun
    ) -> Rankings:
        """Exact scores of every window, by a pass along the run for each query.

        Raises:
            UsageError: no training run is named.
        """
        model = self._model
        trajectory = self._trajectory(methods, run)
        sums = TrajectorySums(model.index, model.engine, trajectory, run.rule, model.memory)
        if any(method.adjusted for method in methods) and not sums.has_norms:
            keep = keeping_command(model.index, "attif", run.settings)
            run.progress.say(
                "The index holds no token norms along this training run: they are computed for"
                f" this run. To keep them in the index: {keep}"
            )
        everything = range(len(model.index))
        run.progress.start("scoring along the training run", float(len(everything) * len(queries)))
        rankings: Rankings = []
        for query in queries:
            tops = {method.name: TopRecords(run.top) for method in methods}
            add = {name: top.add for name, top in tops.items()}
            query_norm = sums.score(everything, methods, query, add, run.progress)
            rankings.append(
                {
                    method.name: Ranking(
                        tops[method.name].result(),
                        QueryScores(*tops[method.name].scores(), method.score_scale(query_norm)),
                        tuple(trajectory.notes),
                    )
                    for method in methods
                }
            )
        return rankings

    def scores(
        self,
        queries: Sequence[ScoringQuery],
        rows: Sequence[Collection[int]],
        methods: Sequence[TrajectoryMethod],
        run: ScoringRun,
    ) -> Mapping[str, Sequence[QueryScores]]:
        """Exact scores of every window; ATTIF's norms have to be in the index.

        Raises:
            KeyError: they are not.
            UsageError: no training run is named.
        """
        assert run.rule.combine == "sum"
        model, progress, count = self._model, run.progress, len(queries)
        trajectory = self._trajectory(methods, run)
        adjusted = [method for method in methods if method.adjusted]
        if adjusted:
            _require_norms(model.index, trajectory, run.rule)
        everything = np.arange(len(model.index))
        scores = {method.name: np.zeros((count, len(everything))) for method in methods}
        # At the traced checkpoint: formed before another one's weights are in the model.
        traced = self._stacked(queries)
        progress.start("scoring records along the training run", float(len(everything)))
        with trajectory.visiting() as steps:
            for number, step in enumerate(steps):
                here = self._stacked(queries) if len(adjusted) < len(methods) else traced
                for method in methods:
                    stack = traced if method.last_query else here
                    for windows in window_batches(
                        model.index, everything.tolist(), model.engine.device
                    ):
                        factors = [
                            _factors_at(model.index, window, number, method, run.rule)
                            * step.learning_rate
                            for window in windows
                        ]
                        (dots_BQ,) = weighted_dots(model.engine, windows, [factors], stack)
                        scores[method.name][:, [window.row for window in windows]] += dots_BQ.T
                        visit = len(windows) / len(trajectory.steps) / len(methods)
                        progress.advance(visit, tokens=token_count(windows))
        return {
            method.name: [
                QueryScores(everything, scores_N, method.score_scale(float(query_norm)))
                for scores_N, query_norm in zip(
                    scores[method.name], traced.query_norm_Q, strict=True
                )
            ]
            for method in methods
        }

    def _stacked(self, queries: Sequence[ScoringQuery]) -> StackedQueries:
        """The queries' gradients under the weights that the model holds now."""
        engine = self._model.engine
        vectors = ((vector, vector.norm) for vector in gradient_vectors(engine, queries))
        return stacked(engine, vectors, len(queries))

    def _trajectory(
        self, methods: Sequence[TrajectoryMethod], run: ScoringRun
    ) -> TrainingTrajectory:
        names = ", ".join(method.name for method in methods)
        return training_run(names, run.settings, self._model.checkpoint)


def _require_norms(index: Index, trajectory: TrainingTrajectory, rule: Rule) -> None:
    entry = index.supplement(SUPPLEMENT)
    if entry is None or entry.settings != attif_settings(trajectory, rule):
        raise KeyError(SUPPLEMENT)


def _factors_at(
    index: Index, window: StoredWindow, number: int, method: TrajectoryMethod, rule: Rule
) -> np.ndarray:
    """[T] the factors of a window's tokens at checkpoint `number`, all but the learning rate."""
    labels = np.asarray(window.labels)
    if not method.adjusted:
        return labels / max(1, int(labels.sum()))
    values = index.supplement_values(SUPPLEMENT, window.row)
    factors = np.zeros(len(labels))
    factors[labels] = rule.weights(np.asarray(values[f"token_norms_{number}"]))
    return factors * inverse(float(values["adjusted_norm"]))
