"""What scores the windows of one index under its checkpoint: engines, curvature, words.

Of many questions at once, without evidence, for calibration and the benches; `trace` goes on from
here to findings.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.device import whole_memory
from haiftrace.methods import (
    GradientMethod,
    LayerwiseMethod,
    Method,
    Rule,
    TrajectoryMethod,
    find_methods,
)
from haiftrace.methods.settings import FactorSettings, MethodSettings, SeriesSettings
from haiftrace.parameters.scopes import select_parameters
from haiftrace.progress import Progress
from haiftrace.scoring.candidates import Candidates
from haiftrace.scoring.freshness import check_corpus, check_fresh
from haiftrace.scoring.gradient_batch import Asked, Scores, score_many, score_many_along
from haiftrace.scoring.inverse import directions_of
from haiftrace.scoring.layerwise.block import LayerwiseSearch
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.layerwise.scorer import LayerwiseScorer
from haiftrace.scoring.layerwise.similarity import indexed_similarity
from haiftrace.scoring.lexical import WordScorer
from haiftrace.scoring.lissa_solver import Series
from haiftrace.scoring.norms import NormSource, needs_of, rule_of
from haiftrace.scoring.query_gradient import Question
from haiftrace.scoring.stored_factors import Curvature
from haiftrace.scoring.tracin import training_run
from haiftrace.store import Index

if TYPE_CHECKING:
    import torch

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import GradientEngine, TokenSimilarity


class Scorers:
    """An index and its checkpoint, opened together.

    Args:
        index: the opened index.
        checkpoint: the model it was made from.
        memory: bytes that a backward pass, or a block of record gradients, may take.

    Attributes:
        notes: what the user should know of the index.
        device: that of the model.
        candidates: what its vectors propose.

    Raises:
        StaleIndexError: the index was made from another checkpoint, tokenizer or corpus.
    """

    def __init__(self, index: Index, checkpoint: Checkpoint, memory: int = 512 << 20) -> None:
        check_fresh(index, checkpoint)
        self.notes = check_corpus(index)
        self.index = index
        self.checkpoint = checkpoint
        self._memory = memory
        # Bytes that the directions of several questions may take together.
        self._room = max(memory, whole_memory(checkpoint.model.device) // 8)
        self.device: torch.device = checkpoint.model.device
        self._curvatures: dict[FactorSettings, Curvature] = {}
        self._all_series: dict[SeriesSettings, Series] = {}
        self._reference = ReferenceSample(index)
        self.candidates = Candidates(index, lambda: self.similarity, self._reference)

    def score_many(
        self,
        questions: Sequence[Question],
        names: Sequence[str],
        settings: MethodSettings,
        progress: Progress,
        rows: Sequence[int] | None = None,
    ) -> Scores:
        """Scores of every window for many questions, [Q, N] by method, without evidence.

        Args:
            names: the layerwise method, gradient methods that sum over tokens, and methods over a
                training run.
            rows: only these windows, ascending; methods over a training run do not take it.

        Raises:
            KeyError: the index does not hold what `attif` needs.
        """
        methods = find_methods(",".join(names))
        rule = self.rule(methods, settings)
        found: Scores = {}
        for method in methods:
            if isinstance(method, LayerwiseMethod):
                found[method.name] = self._layerwise_scores(questions, progress, rows)
        by_gradient = [m for m in methods if isinstance(m, GradientMethod)]
        if by_gradient:
            curvature = self.curvature(settings, progress)
            series = self.series(settings, progress)

            def ask(side: str) -> Iterator[Asked]:
                for question in questions:
                    passing = question.passing()
                    directions, _ = directions_of([side], passing, curvature, series)
                    yield Asked(directions[side], passing.direction.norm)

            needs = needs_of(by_gradient, rule)
            norms = NormSource(self.index, self.engine, curvature, needs, rule)
            found |= score_many(
                self.index,
                self.engine,
                ask,
                len(questions),
                by_gradient,
                rule,
                norms,
                progress,
                rows,
            )
        by_trajectory = [m for m in methods if isinstance(m, TrajectoryMethod)]
        if by_trajectory:
            trajectory = training_run(", ".join(names), settings, self.checkpoint)
            found |= score_many_along(
                self.index, self.engine, trajectory, questions, by_trajectory, rule, progress
            )
        return found

    def _layerwise_scores(
        self, questions: Sequence[Question], progress: Progress, rows: Sequence[int] | None
    ) -> np.ndarray:
        """[Q, N] the scores of these rows, or of all."""
        wanted = range(len(self.index)) if rows is None else rows
        searches = [LayerwiseSearch(question.batch, wanted) for question in questions]
        return np.stack([found.of(wanted) for found in self.layerwise.scores(searches, progress)])

    @cached_property
    def engine(self) -> GradientEngine:
        """Full gradients over the index's scope, for the methods that need them."""
        from haiftrace.engine import GradientEngine

        names = select_parameters(self.checkpoint.model, self.index.settings["scope"])
        return GradientEngine(self.checkpoint.model, names, self._memory)

    @cached_property
    def similarity(self) -> TokenSimilarity:
        """The token gradients that the index was made with."""
        return indexed_similarity(self.index, self.checkpoint, self._memory)

    @cached_property
    def layerwise(self) -> LayerwiseScorer:
        """Exact scores by the layerwise rule."""
        return LayerwiseScorer(self.index, self.similarity, self._room, self._reference)

    def rule(self, methods: Sequence[Method], settings: MethodSettings) -> Rule:
        """The rule of the methods that adjust; raises UsageError where none follows it."""
        return rule_of(self.index, methods, settings)

    @cached_property
    def words(self) -> WordScorer:
        """Search by words over the index's texts."""
        return WordScorer(self.index)

    def curvature(self, settings: MethodSettings, progress: Progress) -> Curvature:
        """EK-FAC's damped inverse under these settings, kept for the next leak."""
        factors = settings.factors
        if factors not in self._curvatures:
            keep = keeping_command(self.index, "ek-fac", settings)
            made = Curvature(self.index, self.engine, factors, progress, keep)
            self._curvatures[factors] = made
        return self._curvatures[factors]

    def take_curvature(self, curvature: Curvature) -> None:
        """Uses factors of another index's records under the same checkpoint and scope."""
        self._curvatures[curvature.settings] = curvature

    def series(self, settings: MethodSettings, progress: Progress) -> Series:
        """LiSSA under these settings, kept for the next leak."""
        if settings.series not in self._all_series:
            made = Series(self.index, self.engine, settings.series, progress)
            self._all_series[settings.series] = made
        return self._all_series[settings.series]


def keeping_command(index: Index, methods: str, settings: MethodSettings) -> str:
    """The command that computes what methods need into the index."""
    options = settings.options(find_methods(methods))
    return shlex.join(["haiftrace", "index", "-o", str(index.path), "--methods", methods, *options])
