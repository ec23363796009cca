"""The registry of influence functions. This page is the whole public surface."""

from haiftrace.methods.adjustment import HAIF, Adjustment
from haiftrace.methods.families import (
    COMBINES,
    GRADIENT,
    INVERSE,
    SERIES,
    Combine,
    GradientMethod,
    LayerwiseMethod,
    LexicalMethod,
    Method,
    Rule,
    TrajectoryMethod,
    WindowNorms,
)
from haiftrace.methods.registry import (
    DEFAULT_METHOD,
    METHODS,
    check_rule,
    find_methods,
    follows_run,
    is_adjusted,
)

__all__ = [
    "COMBINES",
    "DEFAULT_METHOD",
    "GRADIENT",
    "HAIF",
    "INVERSE",
    "METHODS",
    "SERIES",
    "Adjustment",
    "Combine",
    "GradientMethod",
    "LayerwiseMethod",
    "LexicalMethod",
    "Method",
    "Rule",
    "TrajectoryMethod",
    "WindowNorms",
    "check_rule",
    "find_methods",
    "follows_run",
    "is_adjusted",
]
