"""Query-side vectors of methods with curvature: (H + λ)⁻¹v by EK-FAC's factors or by LiSSA."""

from __future__ import annotations

from collections.abc import Iterable

from haiftrace.methods import GRADIENT, INVERSE, SERIES
from haiftrace.scoring.lissa_solver import Series
from haiftrace.scoring.query_gradient import Direction, Question
from haiftrace.scoring.stored_factors import Curvature


def directions_of(
    names: Iterable[str],
    question: Question,
    curvature: Curvature,
    series: Series,
) -> tuple[dict[str, Direction], dict[str, list[str]]]:
    """The directions by name, and what the user should know of each.

    Raises:
        UsageError: a damping that leaves the curvature singular, a series that diverges.
    """
    found: dict[str, Direction] = {}
    said: dict[str, list[str]] = {}
    for name in names:
        if name == GRADIENT:
            found[name] = question.direction
        elif name == INVERSE:
            found[name] = Direction.of(curvature.inverse.apply(question.gradient))
        elif name == SERIES:
            vector, said[name] = series.solve(question.gradient)
            found[name] = Direction.of(vector)
    return found, said
