"""Which token gradients a model has, and those that an index was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from haiftrace.scopes import select_parameters
from haiftrace.store import Index

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint import Checkpoint
    from haiftrace.engine import TokenSimilarity

Kind = Literal["direct", "full"]
WHITENING = "whitening"
"""The supplement with a matrix for every layer."""


def indexed_similarity(index: Index, checkpoint: Checkpoint, memory: int) -> TokenSimilarity:
    """The token gradients that an index was made with.

    Args:
        memory: bytes that a pass may take, approximately.
    """
    from haiftrace.engine import DirectGradients, Whitening

    if index.settings["gradients"] == "full":
        return full_similarity(checkpoint, index.settings["scope"], memory)
    matrices: dict[str, Tensor] = {}
    for tensors, _ in index.supplement_tensors(WHITENING):
        matrices |= tensors
    whitening = Whitening(tuple(matrices[str(layer)] for layer in range(len(matrices))))
    return DirectGradients(checkpoint.model, whitening, memory=memory)


def full_similarity(checkpoint: Checkpoint, scope: str, memory: int) -> TokenSimilarity:
    """Full gradients over a scope of parameters (see `haiftrace.scopes`)."""
    from haiftrace.engine import FullGradients, GradientEngine

    names = select_parameters(checkpoint.model, scope)
    return FullGradients(GradientEngine(checkpoint.model, names, memory))
