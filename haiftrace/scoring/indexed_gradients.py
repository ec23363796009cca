"""Which token gradients an index is made with, and the whitening of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.errors import UsageError
from haiftrace.parameters.scopes import ADAPTER_SCOPE, DEFAULT_SCOPE, select_parameters
from haiftrace.scoring.layerwise.similarity import Kind, full_similarity

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import DirectGradients, TokenSimilarity

WHITENING_WINDOWS = 256
"""Windows of the corpus that whitening is found from, a seeded sample."""

_TOKENS_A_DIMENSION = 8
_LEAST_TOKENS = 1 << 12

_FALLBACKS = (DEFAULT_SCOPE, "matrices", "all")


@dataclass(frozen=True)
class TokenGradients:
    """The token gradients of a model.

    Attributes:
        kind: "direct" where it has them.
        scope: the parameters of full gradients, for the methods that take these too.
        names: of the parameters in scope.
        similarity: computes them.
        note: what the user should know of the choice; "" for nothing.
    """

    kind: Kind
    scope: str
    names: list[str]
    similarity: TokenSimilarity
    note: str = ""


def choose_scope(checkpoint: Checkpoint, scope: str | None) -> tuple[str, list[str]]:
    """The scope of full gradients and its parameters; where none is named the first that works.

    Raises:
        UsageError: the model has nothing in that scope.
    """
    if scope is not None:
        return scope, select_parameters(checkpoint.model, scope)
    for fallback in _FALLBACKS[:-1]:
        try:
            return fallback, select_parameters(checkpoint.model, fallback)
        except UsageError:
            continue
    return _FALLBACKS[-1], select_parameters(checkpoint.model, _FALLBACKS[-1])


def choose_gradients(checkpoint: Checkpoint, scope: str | None, memory: int) -> TokenGradients:
    """Direct gradients, or where the model has none its full ones.

    Args:
        scope: of full gradients; None for one that works.
        memory: bytes that a pass may take, approximately.

    Raises:
        UsageError: the model has nothing in that scope.
    """
    from haiftrace.engine import DirectGradients, NoDirectGradients

    scope, names = choose_scope(checkpoint, scope)
    if scope == ADAPTER_SCOPE:
        note = (
            "direct gradients are of the value projections, whatever was trained: full token"
            " gradients of the adapter's own matrices take their place, a backward pass a token"
        )
        full = full_similarity(checkpoint, scope, memory)
        return TokenGradients("full", scope, names, full, note)
    try:
        direct = DirectGradients(checkpoint.model, memory=memory)
    except NoDirectGradients as why:
        note = (
            f"this model has no direct gradients ({why}): full token gradients over the scope"
            f" {scope} take their place, a backward pass a token"
        )
        full = full_similarity(checkpoint, scope, memory)
        return TokenGradients("full", scope, names, full, note)
    return TokenGradients("direct", scope, names, direct)


def whitening_tokens(width: int) -> int:
    """Tokens of these windows from which on there are enough.

    With a quarter as many the sources of SmolLM2's answers stand out less (RESULTS §13).

    Args:
        width: D, numbers of a value projection's input.
    """
    return max(_LEAST_TOKENS, _TOKENS_A_DIMENSION * width)


def corpus_whitening(
    direct: DirectGradients,
    batches: Iterator[Sequence[list[int]]],
    damping: float,
    passed: Callable[[Sequence[list[int]]], None],
) -> dict[str, Tensor]:
    """The whitening of the inputs over all tokens of some windows, as it is kept: in float32.

    Args:
        batches: token ids of the windows, those of like length together.
        damping: λ.
        passed: is told of each batch that is done.
    """
    from haiftrace.engine import SecondMoments, make_batch
    from haiftrace.engine.halving import halved

    def inputs(sequences: Sequence[list[int]]) -> tuple[list[Tensor], Tensor]:
        return direct.value_inputs(make_batch(sequences, device=direct.device))

    moments = SecondMoments()
    for batch in batches:
        # Outside of what is tried again, so that no position counts twice.
        for sequences, (inputs_L, mask_BT) in halved(inputs, batch):
            moments.add(inputs_L, mask_BT)
            passed(sequences)
    matrices = moments.whitening(damping).matrices
    return {str(n): matrix.float() for n, matrix in enumerate(matrices) if matrix is not None}


def whitened(direct: DirectGradients, matrices: dict[str, Tensor]) -> DirectGradients:
    """Direct gradients with a whitening as it is kept."""
    from haiftrace.engine import Whitening

    return direct.whitened(Whitening(tuple(matrices[str(n)] for n in range(len(matrices)))))
