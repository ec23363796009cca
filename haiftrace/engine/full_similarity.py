"""Cosines of full token gradients: exact for any architecture, a backward pass a token.

For models that have no direct gradients (see `direct`): without attention layers, or with attention
that cannot be followed. All parameters in scope are one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.engine import GradientEngine
from haiftrace.engine.similarity import TokenMeasures


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

    @property
    def nbytes(self) -> int:
        """Memory of the gradients."""
        return sum(part.nbytes for part in self.units.values())

    @property
    def dot_work(self) -> int:
        """Multiplications of one query token's inner product with one other token."""
        return sum(part[0].numel() for part in self.units.values())

    def taken(self, places: Sequence[int]) -> FullQueries:
        """Those of some of the tokens."""
        return FullQueries({name: part[list(places)] for name, part in self.units.items()})


class FullGradients:
    """Full gradients of token losses (a `TokenSimilarity` of one layer)."""

    layers = 1
    first_layer = 0

    def __init__(self, engine: GradientEngine, notes: Sequence[str] = ()) -> None:
        self._engine = engine
        self.notes = (*notes, *engine.notes)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self._engine.device

    def queries(self, batches: Sequence[Batch]) -> FullQueries:
        """The gradients of all labels of the batches, in order."""
        units = [self._unit(row, place) for batch in batches for row, place in _labels(batch)]
        return FullQueries({name: torch.stack([u[name] for u in units]) for name in units[0]})

    def _unit(self, row: Batch, place: int) -> dict[str, Tensor]:
        weights_BT = torch.zeros(row.labels_BT.shape, dtype=torch.float64, device=self.device)
        weights_BT[0, place] = 1.0
        gradient = self._engine.gradient(row, weights_BT)
        norm = sum(float(part.double().square().sum()) for part in gradient.values()) ** 0.5
        return {
            name: (part.double() / max(norm, 1e-300)).to(part.dtype)
            for name, part in gradient.items()
        }

    def cosines(self, batch: Batch, queries: FullQueries) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, and once [J, Q] the cosines."""
        tokens = self._engine.token_gradients(batch, queries=queries.units)
        assert tokens.dots_QBT is not None
        labels_BT = batch.labels_BT
        norms_J = tokens.norms_BT[labels_BT]
        over_J = torch.where(norms_J > 0, 1 / norms_J, torch.zeros_like(norms_J))
        cosines_JQ = tokens.dots_QBT[:, labels_BT].T * over_J[:, None]
        return tokens.losses_BT[labels_BT], iter([cosines_JQ])

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """Losses, norms and projected unit gradients of a batch's labels."""
        projector = self._engine.projector(dimension, seed) if dimension else None
        tokens = self._engine.token_gradients(batch, projector)
        return TokenMeasures(tokens.losses_BT, tokens.norms_BT, tokens.vectors_BTD)


def _labels(batch: Batch) -> Iterator[tuple[Batch, int]]:
    """Each label as one record with its place; what follows it is cut off."""
    for row in batch.rows():
        for place in row.labels_BT[0].nonzero()[:, 0].tolist():
            cut = place + 1
            yield (
                replace(
                    row,
                    ids_BT=row.ids_BT[:, :cut],
                    labels_BT=row.labels_BT[:, :cut],
                    lengths=(cut,),
                ),
                place,
            )
