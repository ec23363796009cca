"""Cosine similarities of per-token gradients of records with those of a query, layer by layer.

Direct gradients (see `direct`) give them by one pass a record. Full gradients (see
`full_similarity`), a backward pass a token, replace them where a model has none: all parameters in
scope are then one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch


@dataclass(frozen=True, eq=False)
class TokenMeasures:
    """What an index keeps of a batch's labels; zero at tokens that are no labels.

    Attributes:
        losses_BT: cross-entropy in nats, float64.
        norms_BT: of the per-token gradients, float64.
        vectors_BTK: projections whose inner products estimate the mean over layers of the cosines;
            None for a dimension of 0.
    """

    losses_BT: Tensor
    norms_BT: Tensor
    vectors_BTK: Tensor | None


@dataclass(frozen=True)
class TokenCost:
    """What one query token costs.

    Attributes:
        nbytes: memory of its gradients.
        dot_work: multiplications of its inner products with one other token.
    """

    nbytes: int
    dot_work: int


class QueryGradients(Protocol):
    """The gradients of Q query tokens."""

    @property
    def count(self) -> int:
        """Q."""
        ...

    def select(self, tokens: Sequence[int]) -> Self:
        """The gradients of a subset of the query tokens, by their indices."""
        ...


class TokenSimilarity(Protocol):
    """Cosine similarities of per-token gradients under one model."""

    @property
    def layers(self) -> int:
        """Number of layers that have cosines of their own."""
        ...

    @property
    def first_layer(self) -> int:
        """Index of the first of them among the model's layers, from 0."""
        ...

    @property
    def device(self) -> torch.device:
        """Of the model."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how this architecture is handled."""
        ...

    @property
    def token_cost(self) -> TokenCost:
        """What one query token costs, whatever the token."""
        ...

    def queries(self, batches: Sequence[Batch]) -> Any:
        """The gradients of all labels of the batches, in order."""
        ...

    def cosines(self, batch: Batch, queries: Any) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, float64, and the cosines [J, Q] of each layer."""
        ...

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """Losses, norms and projected unit gradients of a batch's labels.

        Args:
            dimension: K of the vectors; 0 for none.
            seed: of the projection.
        """
        ...


def at_labels(values_J: Tensor, batch: Batch) -> Tensor:
    """[B, T, ...] values of a batch's labels at their tokens, zero elsewhere."""
    full = values_J.new_zeros(*batch.labels_BT.shape, *values_J.shape[1:])
    full[batch.labels_BT] = values_J
    return full
