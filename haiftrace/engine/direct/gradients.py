"""Direct gradients of one model: the engine's way to a record's token gradients in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.direct.attention import Recorder, own_streams
from haiftrace.engine.direct.direct_pass import DirectPass
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.projection import TokenProjector
from haiftrace.engine.direct.support import DirectSupport, find_direct_support
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import SecondMoments, Whitening
from haiftrace.engine.similarity import TokenMeasures, at_labels


@dataclass(frozen=True, eq=False)
class DirectQueries:
    """The factors of Q query tokens, a layer each."""

    layers: tuple[LayerFactors, ...]

    @property
    def count(self) -> int:
        """Q."""
        return self.layers[0].count

    @property
    def nbytes(self) -> int:
        """Memory of the factors."""
        return sum(layer.nbytes for layer in self.layers)

    def taken(self, places: Sequence[int]) -> DirectQueries:
        """Those of some of the tokens."""
        return DirectQueries(tuple(layer.taken(list(places)) for layer in self.layers))


class DirectGradients:
    """Direct value gradients of token losses, with whitened inputs (a `TokenSimilarity`).

    Args:
        model: a causal language model in evaluation mode.
        whitening: of the value projections' inputs, a layer each; None for none.
        support: how its pass is done; found by trying it on the model when None.

    Raises:
        NoDirectGradients: the model has no such pass.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: Any,
        whitening: Whitening | None = None,
        support: DirectSupport | None = None,
    ) -> None:
        self._model = model
        self.support = support or find_direct_support(model)
        whitening = whitening or Whitening.none(self.layers)
        if len(whitening.matrices) != self.layers:
            raise ValueError("the whitening is of a model with another number of layers")
        self._whitening = whitening.to(next(iter(model.parameters())))
        self._projectors: dict[tuple[int, int], TokenProjector] = {}

    @property
    def layers(self) -> int:
        """Attention layers."""
        return len(self.support.projections)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        device: torch.device = next(iter(self._model.parameters())).device
        return device

    def whitened(self, whitening: Whitening) -> DirectGradients:
        """The same with another whitening."""
        return DirectGradients(self._model, whitening, self.support)

    def add_moments(self, batch: Batch, moments: SecondMoments) -> None:
        """Adds x xᵀ of the value projections' inputs at all of a batch's positions."""
        lengths = torch.tensor(batch.lengths, device=self.device)
        mask_BT = torch.arange(batch.length, device=self.device) < lengths[:, None]
        with (
            torch.no_grad(),
            own_streams(self._model, Recorder()),
            captured_inputs(self.support.projections) as inputs,
        ):
            self._model(input_ids=batch.ids_BT, use_cache=False)
        moments.add(inputs, mask_BT)

    def pass_of(self, batch: Batch) -> DirectPass:
        """One forward and one backward pass."""
        return DirectPass(self._model, self.support.projections, batch, self.support.plain_head)

    def queries(self, batches: Sequence[Batch]) -> DirectQueries:
        """The factors of all labels of the batches, in order."""
        passes = [list(self.pass_of(batch).layers(self._whitening)) for batch in batches]
        return DirectQueries(
            tuple(LayerFactors.joined(of_layer) for of_layer in zip(*passes, strict=True))
        )

    def cosines(self, batch: Batch, queries: DirectQueries) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, and a layer each [J, Q] the cosines."""
        run = self.pass_of(batch)
        layers = zip(run.layers(self._whitening), queries.layers, strict=True)
        return run.losses_J, (ours.cosines(theirs) for ours, theirs in layers)

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """Losses, norms over all layers, and projected unit gradients of a batch's labels."""
        run = self.pass_of(batch)
        squares_J = torch.zeros_like(run.losses_J)
        vectors_JK = None
        for layer, factors in enumerate(run.layers(self._whitening)):
            squares_J += factors.norm_J**2
            if dimension:
                added = self._projector(dimension, seed).of_layer(layer, factors)
                vectors_JK = added if vectors_JK is None else vectors_JK + added
        return TokenMeasures(
            at_labels(run.losses_J, batch),
            at_labels(squares_J.sqrt(), batch),
            None if vectors_JK is None else at_labels(vectors_JK, batch),
        )

    def _projector(self, dimension: int, seed: int) -> TokenProjector:
        key = dimension, seed
        if key not in self._projectors:
            self._projectors[key] = TokenProjector(dimension, seed, self.layers)
        return self._projectors[key]
