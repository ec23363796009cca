"""EK-FAC's Kronecker factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from haiftrace.index.supplements.precomputation import Precomputation
from haiftrace.methods import EK_FAC, Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.gradient.stored_factors import keep_factors, require_factors
from haiftrace.store import Index, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine


class KroneckerFactors:
    """A file a matrix."""

    def serves(self, method: Method) -> bool:
        """Whether a method takes EK-FAC's inverse curvature."""
        return method.curvature == EK_FAC

    def check(self, settings: MethodSettings, engine: Callable[[], GradientEngine]) -> None:
        """Raises UsageError where a parameter in scope has no factors."""
        require_factors(engine(), settings.factors)

    def keep(self, work: Precomputation) -> None:
        """Fits them to the index's records. Raises UsageError where they have no inverse."""
        with Index.open(work.path, verify=False) as index, SupplementWriter(work.path) as writer:
            keep_factors(writer, index, work.engine, work.settings.factors, work.progress)
