"""Cosine similarities of full per-token gradients: for any architecture, a backward pass a token.

For models that have no direct gradients (see `direct`): without attention layers, or with attention
that cannot be replaced. All parameters in scope are one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.engine import GradientEngine
from haiftrace.engine.similarity import TokenCost, TokenMeasures


@dataclass(frozen=True, eq=False)
class FullQueries:
    """The unit gradients of Q query tokens.

    Attributes:
        units: [Q, *parameter] by parameter name.
    """

    units: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """Q."""
        return len(next(iter(self.units.values())))

    def select(self, tokens: Sequence[int]) -> FullQueries:
        """The gradients of a subset of the query tokens, by their indices."""
        return FullQueries({name: units[list(tokens)] for name, units in self.units.items()})


class FullGradients:
    """Full per-token gradients (a `TokenSimilarity` of one layer).

    Args:
        notes: for the user, before the engine's own.
    """

    layers = 1
    first_layer = 0

    def __init__(self, engine: GradientEngine, notes: Sequence[str] = ()) -> None:
        self._engine = engine
        self.notes = (*notes, *engine.notes)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self._engine.device

    @property
    def token_cost(self) -> TokenCost:
        """What one query token costs: as much as the parameters."""
        return TokenCost(self._engine.gradient_bytes, self._engine.entry_count)

    def queries(self, batches: Sequence[Batch]) -> FullQueries:
        """The unit gradients of all labels of the batches, in order."""
        units = [self._unit(row, token) for batch in batches for row, token in _labels(batch)]
        return FullQueries({name: torch.stack([u[name] for u in units]) for name in units[0]})

    def _unit(self, row: Batch, token: int) -> dict[str, Tensor]:
        weights_BT = torch.zeros(row.labels_BT.shape, dtype=torch.float64, device=self.device)
        weights_BT[0, token] = 1.0
        gradient = self._engine.gradient(row, weights_BT)
        norm = sum(float(grad.double().square().sum()) for grad in gradient.values()) ** 0.5
        return {
            name: (grad.double() / max(norm, 1e-300)).to(grad.dtype)
            for name, grad in gradient.items()
        }

    def cosines(self, batch: Batch, queries: FullQueries) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, and the cosines [J, Q] of the one layer."""
        tokens = self._engine.token_gradients(batch, queries=queries.units)
        assert tokens.dots_QBT is not None
        labels_BT = batch.labels_BT
        norms_J = tokens.norms_BT[labels_BT]
        inverse_J = torch.where(norms_J > 0, 1 / norms_J, torch.zeros_like(norms_J))
        cosines_JQ = tokens.dots_QBT[:, labels_BT].T * inverse_J[:, None]
        return tokens.losses_BT[labels_BT], iter([cosines_JQ])

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """Losses, norms and projected unit gradients of a batch's labels."""
        projector = self._engine.projector(dimension, seed) if dimension else None
        tokens = self._engine.token_gradients(batch, projector)
        return TokenMeasures(tokens.losses_BT, tokens.norms_BT, tokens.vectors_BTK)


def _labels(batch: Batch) -> Iterator[tuple[Batch, int]]:
    """Each label's index in its record, with the record up to it."""
    for row in batch.rows():
        for token in row.labels_BT[0].nonzero()[:, 0].tolist():
            stop = token + 1
            yield (
                replace(
                    row,
                    ids_BT=row.ids_BT[:, :stop],
                    labels_BT=row.labels_BT[:, :stop],
                    lengths=(stop,),
                ),
                token,
            )
