"""The protocol of a supplement, and what its computation is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from haiftrace.methods import Method, Rule
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.gradient.norms import rule_of
from haiftrace.scoring.gradient.stored_factors import Curvature
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import GradientEngine


@dataclass(frozen=True)
class Precomputation:
    """An index that methods are prepared for.

    Attributes:
        path: of the index.
        methods: all of them; a supplement looks at those that it serves.
        settings: those of the methods.
        engine: full gradients over the index's scope.
        memory: bytes that a block of gradients may take.
    """

    path: Path
    methods: Sequence[Method]
    settings: MethodSettings
    checkpoint: Checkpoint
    engine: GradientEngine
    memory: int
    progress: Progress

    def rule(self, index: Index) -> Rule:
        """The rule of the methods that adjust."""
        return rule_of(index, self.methods, self.settings)

    def curvature(self, index: Index) -> Curvature:
        """EK-FAC's damped inverse over the opened index."""
        return Curvature(index, self.engine, self.settings.factors, self.progress, "")


class Supplement(Protocol):
    """What some methods need beyond an index's rows."""

    def serves(self, method: Method) -> bool:
        """Whether a method needs it."""
        ...

    def check(self, settings: MethodSettings, engine: Callable[[], GradientEngine]) -> None:
        """Refuses what `keep` would refuse, before hours of indexing.

        Args:
            engine: makes one over the scope of the index.

        Raises:
            UsageError: why.
        """
        ...

    def keep(self, work: Precomputation) -> None:
        """Computes it into the index; what this holds already is kept.

        Raises:
            HaiftraceError: whatever is wrong with index, checkpoint or settings.
        """
        ...
