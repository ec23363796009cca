"""Which token gradients a model has, and those that an index was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from haiftrace.errors import StaleIndexError
from haiftrace.parameters.scopes import select_parameters
from haiftrace.store import Index

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import TokenSimilarity

Kind = Literal["direct", "full"]
WHITENING = "whitening"
"""The supplement with a matrix for every layer."""


def indexed_similarity(index: Index, checkpoint: Checkpoint, memory: int) -> TokenSimilarity:
    """The token gradients that an index was made with.

    Args:
        memory: bytes that a pass may take, approximately.

    Raises:
        StaleIndexError: it was made with others than the model has now.
    """
    from haiftrace.engine import DirectGradients, NoDirectGradients, Whitening

    if index.settings["gradients"] == "full":
        return full_similarity(checkpoint, index.settings["scope"], memory)
    try:
        direct = DirectGradients(checkpoint.model, memory=memory)
    except NoDirectGradients as why:
        raise _stale(index, f"direct gradients of this model, and now has none ({why})") from why
    if layers_of(direct) != index.settings.get("layers"):
        raise _stale(index, "other layers of the model")
    matrices: dict[str, Tensor] = {}
    for tensors, _ in index.supplement_tensors(WHITENING):
        matrices |= tensors
    return direct.whitened(Whitening(tuple(matrices[str(n)] for n in range(len(matrices)))))


def _stale(index: Index, what: str) -> StaleIndexError:
    return StaleIndexError(
        f"The index {index.path} was made by another version of haiftrace, which took {what}.",
        "Run the same `haiftrace index` command with --overwrite to build it again.",
    )


def layers_of(similarity: TokenSimilarity) -> list[int]:
    """The first of the model's layers that judges, and how many do: what an index depends on."""
    return [similarity.first_layer, similarity.layers]


def full_similarity(checkpoint: Checkpoint, scope: str, memory: int) -> TokenSimilarity:
    """Full gradients over a scope of parameters (see `haiftrace.parameters.scopes`)."""
    from haiftrace.engine import FullGradients, GradientEngine

    names = select_parameters(checkpoint.model, scope)
    return FullGradients(GradientEngine(checkpoint.model, names, memory))
