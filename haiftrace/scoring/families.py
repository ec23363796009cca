"""The scoring families by the name that methods know them by. A further one is a further entry."""

from __future__ import annotations

from collections.abc import Callable

from haiftrace.scoring.family import Family
from haiftrace.scoring.gradient.family import GradientFamily
from haiftrace.scoring.indexed_model import IndexedModel
from haiftrace.scoring.layerwise.family import LayerwiseFamily
from haiftrace.scoring.lexical import LexicalFamily
from haiftrace.scoring.trajectory.family import TrajectoryFamily

FAMILIES: dict[str, Callable[[IndexedModel], Family]] = {
    "layerwise": LayerwiseFamily,
    "gradient": GradientFamily,
    "trajectory": TrajectoryFamily,
    "lexical": LexicalFamily,
}
