"""Query vectors: the gradient v of the response's loss, and the preconditioned query gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from haiftrace.methods import EK_FAC, IDENTITY, LISSA
from haiftrace.scoring.family import ScoringQuery
from haiftrace.scoring.gradient.lissa_solver import LissaSolver
from haiftrace.scoring.gradient.stored_factors import Curvature

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import GradientEngine


@dataclass(frozen=True)
class QueryVector:
    """A vector over the parameters in scope: unit, so that products of tiny gradients stay within
    the model's precision, and its norm.
    """

    unit: Mapping[str, Tensor]
    norm: float

    @classmethod
    def of(cls, vector: Mapping[str, Tensor]) -> QueryVector:
        """A vector by parameter name."""
        norm = sum(float(each.double().pow(2).sum()) for each in vector.values()) ** 0.5
        unit = {
            name: (each.double() / max(norm, 1e-300)).to(each.dtype)
            for name, each in vector.items()
        }
        return cls(unit, norm)


class QueryGradient:
    """The gradient v of a query's mean loss under the weights that the model holds now."""

    def __init__(self, engine: GradientEngine, query: ScoringQuery) -> None:
        self.gradient: dict[str, Tensor] = engine.gradient(query.batch, query.mean_weights_BT)

    @cached_property
    def vector(self) -> QueryVector:
        """V as a query vector."""
        return QueryVector.of(self.gradient)


class QueryPreconditioner:
    """Query vectors by the name that methods know their preconditioner by.

    Args:
        curvature: (H + d)⁻¹ by EK-FAC.
        series: (H + λ)⁻¹ by LiSSA.
    """

    def __init__(self, curvature: Curvature, series: LissaSolver) -> None:
        self._curvature = curvature
        self._series = series

    def vectors(
        self, preconditioners: Iterable[str], query: QueryGradient
    ) -> tuple[dict[str, QueryVector], dict[str, list[str]]]:
        """The query vectors, and what the user should know of each.

        Raises:
            UsageError: a damping that leaves the curvature singular, a series that diverges.
        """
        vectors: dict[str, QueryVector] = {}
        notes: dict[str, list[str]] = {}
        for name in preconditioners:
            if name == IDENTITY:
                vectors[name] = query.vector
            elif name == EK_FAC:
                vectors[name] = QueryVector.of(self._curvature.inverse.apply(query.gradient))
            elif name == LISSA:
                solution, notes[name] = self._series.solve(query.gradient)
                vectors[name] = QueryVector.of(solution)
        return vectors, notes


def gradient_vectors(
    engine: GradientEngine, queries: Iterable[ScoringQuery]
) -> Iterator[QueryVector]:
    """V of each query, no gradient kept but in what is returned."""
    for query in queries:
        yield QueryGradient(engine, query).vector
