"""The registry of influence functions. This page is the whole public surface."""

from haiftrace.methods.adjustment import HAIF, Adjustment
from haiftrace.methods.families import (
    COMBINES,
    EK_FAC,
    IDENTITY,
    LISSA,
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
)

__all__ = [
    "COMBINES",
    "DEFAULT_METHOD",
    "EK_FAC",
    "HAIF",
    "IDENTITY",
    "LISSA",
    "METHODS",
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
]
