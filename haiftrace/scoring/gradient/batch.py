"""Scores of many queries at once, without evidence: one weighted backward pass a record.

`Σ_j a_j (u·g_kj) = u · ∇ Σ_j a_j l_kj`, so the inner products of a record's gradient under a
method's weights with every query vector give all scores; a forward-mode pass a query is not needed.
Methods that combine tokens in another way than by a sum need the tokens themselves (see `exact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import inverse
from haiftrace.scoring.batches import batch_of
from haiftrace.scoring.gradient.query_vectors import QueryVector
from haiftrace.store import StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import GradientEngine


@dataclass(frozen=True)
class StackedQueries:
    """The query vectors of Q queries.

    Attributes:
        unit: [Q, *parameter] by parameter name.
        norm_Q: ‖u‖.
        query_norm_Q: ‖v‖.
    """

    unit: dict[str, Tensor]
    norm_Q: np.ndarray
    query_norm_Q: np.ndarray

    @property
    def over_query_norm_Q(self) -> np.ndarray:
        """1/‖v‖."""
        return np.array([inverse(norm) for norm in self.query_norm_Q])


def stacked(
    engine: GradientEngine, vectors: Iterable[tuple[QueryVector, float]], count: int
) -> StackedQueries:
    """So many query vectors u, each given with ‖v‖.

    They are taken one at a time, so that no more than one is held twice.
    """
    unit: dict[str, Tensor] = {}
    norm_Q, query_norm_Q = np.zeros(count), np.zeros(count)
    for place, (vector, query_norm) in enumerate(vectors):
        for name in engine.parameters:
            if name not in unit:
                unit[name] = vector.unit[name].new_empty((count, *vector.unit[name].shape))
            unit[name][place] = vector.unit[name]
        norm_Q[place], query_norm_Q[place] = vector.norm, query_norm
    return StackedQueries(unit, norm_Q, query_norm_Q)


def weighted_dots(
    engine: GradientEngine,
    windows: Sequence[StoredWindow],
    factors: Sequence[Sequence[np.ndarray]],
    queries: StackedQueries,
) -> np.ndarray:
    """[N, B, Q] u·Σ_j a_j g_kj of every window k of a batch.

    Args:
        factors: of each of N weightings, and of each of the B windows, the a_j of its T tokens.
    """
    import torch

    batch = batch_of(windows, engine.device)
    weights_NBT = np.zeros((len(factors), *batch.ids_BT.shape))
    for weights_BT, of_windows in zip(weights_NBT, factors, strict=True):
        for weights_T, factors_T in zip(weights_BT, of_windows, strict=True):
            weights_T[: len(factors_T)] = factors_T
    # Weights of 1/norm are huge where gradients are tiny: brought to one scale for float32.
    scale_NB1 = np.abs(weights_NBT).max(-1, keepdims=True)
    scale_NB1[scale_NB1 == 0] = 1.0
    reduced = engine.record_gradients(
        batch, torch.from_numpy(weights_NBT / scale_NB1), queries=queries.unit
    )
    assert reduced.dots_NBQ is not None
    dots_NBQ: np.ndarray = reduced.dots_NBQ.cpu().numpy() * scale_NB1 * queries.norm_Q
    return dots_NBQ
