"""An index and its checkpoint, opened together: engines, candidates, curvature."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from haiftrace.device import total_memory
from haiftrace.methods import Method, Rule, find_methods
from haiftrace.methods.settings import FactorSettings, MethodSettings, SeriesSettings
from haiftrace.parameters.scopes import select_parameters
from haiftrace.progress import Progress
from haiftrace.scoring.candidates import Candidates
from haiftrace.scoring.freshness import check_corpus, check_fresh
from haiftrace.scoring.gradient.lissa_solver import LissaSolver
from haiftrace.scoring.gradient.norms import rule_of
from haiftrace.scoring.gradient.stored_factors import Curvature
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.layerwise.similarity import indexed_similarity
from haiftrace.store import Index

if TYPE_CHECKING:
    import torch

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import GradientEngine, TokenSimilarity


class IndexedModel:
    """What the scoring families share of one index under its checkpoint, made when it is needed.

    Args:
        index: the opened index.
        checkpoint: the model it was made from.
        memory: bytes that a backward pass, or a block of record gradients, may take.

    Attributes:
        notes: what the user should know of the index.
        device: that of the model.
        room: bytes that the query gradients of a pass may take together.
        reference: the windows that the layerwise rule's z-scores are over.
        candidates: what the index's token vectors propose.

    Raises:
        StaleIndexError: the index was made from another checkpoint, tokenizer or corpus.
    """

    def __init__(self, index: Index, checkpoint: Checkpoint, memory: int = 512 << 20) -> None:
        check_fresh(index, checkpoint)
        self.notes = check_corpus(index)
        self.index = index
        self.checkpoint = checkpoint
        self.memory = memory
        self.room = max(memory, total_memory(checkpoint.model.device) // 8)
        self.device: torch.device = checkpoint.model.device
        self.reference = ReferenceSample(index)
        self.candidates = Candidates(index, lambda: self.similarity, self.reference)
        self._curvatures: dict[FactorSettings, Curvature] = {}
        self._solvers: dict[SeriesSettings, LissaSolver] = {}

    @cached_property
    def engine(self) -> GradientEngine:
        """Full gradients over the index's scope, for the methods that need them."""
        from haiftrace.engine import GradientEngine

        names = select_parameters(self.checkpoint.model, self.index.settings["scope"])
        return GradientEngine(self.checkpoint.model, names, self.memory)

    @cached_property
    def similarity(self) -> TokenSimilarity:
        """The token gradients that the index was made with."""
        return indexed_similarity(self.index, self.checkpoint, self.memory)

    def rule(self, methods: Sequence[Method], settings: MethodSettings) -> Rule:
        """The rule of the methods that adjust; raises UsageError where none follows it."""
        return rule_of(self.index, methods, settings)

    def curvature(self, settings: MethodSettings, progress: Progress) -> Curvature:
        """EK-FAC's damped inverse under these settings, kept for the next query."""
        factors = settings.factors
        if factors not in self._curvatures:
            keep = keeping_command(self.index, "ek-fac", settings)
            curvature = Curvature(self.index, self.engine, factors, progress, keep)
            self._curvatures[factors] = curvature
        return self._curvatures[factors]

    def share_curvature(self, curvature: Curvature) -> None:
        """Uses factors of another index's records under the same checkpoint and scope."""
        self._curvatures[curvature.settings] = curvature

    def lissa(self, settings: MethodSettings, progress: Progress) -> LissaSolver:
        """LiSSA's inverse-Hessian-vector products under these settings, kept for the next query."""
        if settings.series not in self._solvers:
            solver = LissaSolver(self.index, self.engine, settings.series, progress)
            self._solvers[settings.series] = solver
        return self._solvers[settings.series]


def keeping_command(index: Index, methods: str, settings: MethodSettings) -> str:
    """The command that computes what methods need into the index."""
    options = settings.options(find_methods(methods))
    return shlex.join(["haiftrace", "index", "-o", index.place, "--method", methods, *options])
