"""What tracing asks of token gradients: cosines of a record's with a query's, layer by layer.

Direct gradients (see `direct`) give them in one pass a record. Full gradients, a backward pass a
token, take their place where a model has no attention to follow: the whole scope is then one layer.

Shape letters: B records, T positions, J labels of a batch (record by record, in order), Q query
tokens, K dimensions of a token's vector.
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
    """What an index keeps of a batch's labels.

    Attributes:
        losses_BT: cross-entropy in nats, float64; zero elsewhere.
        norms_BT: of the gradients, float64; zero elsewhere.
        vectors_BTK: projections whose inner products estimate the mean over layers of the cosines;
            zero elsewhere. None where none are asked for.
    """

    losses_BT: Tensor
    norms_BT: Tensor
    vectors_BTK: Tensor | None


class QueryGradients(Protocol):
    """The gradients of Q query tokens."""

    @property
    def count(self) -> int:
        """Q."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        ...

    @property
    def dot_work(self) -> int:
        """Multiplications of one query token's inner products with one other token."""
        ...

    def taken(self, places: Sequence[int]) -> Self:
        """Those of some of the tokens."""
        ...


class TokenSimilarity(Protocol):
    """Cosines of token gradients under one model."""

    @property
    def layers(self) -> int:
        """How many judge by themselves."""
        ...

    @property
    def first_layer(self) -> int:
        """Which of the model's layers is the first of them, from 0."""
        ...

    @property
    def device(self) -> torch.device:
        """Of the model."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how this architecture is handled."""
        ...

    def queries(self, batches: Sequence[Batch]) -> Any:
        """The gradients of all labels of the batches, in order."""
        ...

    def cosines(self, batch: Batch, queries: Any) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, float64, and a layer each [J, Q] the cosines."""
        ...

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """What an index keeps of a batch; a dimension of 0 keeps no vectors."""
        ...


def at_labels(values_J: Tensor, batch: Batch) -> Tensor:
    """[B, T, ...] values of a batch's labels at their tokens, zero elsewhere."""
    full = values_J.new_zeros(*batch.labels_BT.shape, *values_J.shape[1:])
    full[batch.labels_BT] = values_J
    return full
