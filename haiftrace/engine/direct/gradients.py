"""Direct gradients of one model: the engine's way to a record's token gradients in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.direct.direct_pass import DirectPass, Receiver
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.projection import TokenProjector
from haiftrace.engine.direct.support import DirectSupport
from haiftrace.engine.direct.trial import find_direct_support
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import SecondMoments, Whitening
from haiftrace.engine.similarity import TokenMeasures, at_labels

MEMORY = 512 << 20
"""Bytes that a pass may keep for its way back, if nobody says."""


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

    @property
    def dot_work(self) -> int:
        """Multiplications of one query token's inner products with one other token."""
        return sum(layer.dot_work for layer in self.layers)

    def taken(self, places: Sequence[int]) -> DirectQueries:
        """Those of some of the tokens."""
        return DirectQueries(tuple(layer.taken(list(places)) for layer in self.layers))


class DirectGradients:
    """Direct value gradients of token losses, with whitened inputs (a `TokenSimilarity`).

    Args:
        model: a causal language model in evaluation mode.
        whitening: of the value projections' inputs, a layer each; None for none.
        support: how its pass is done; found by trying it on the model when None.
        memory: bytes that one pass may keep for its way back, approximately.

    Raises:
        NoDirectGradients: the model has no such pass.
    """

    def __init__(
        self,
        model: Any,
        whitening: Whitening | None = None,
        support: DirectSupport | None = None,
        memory: int = MEMORY,
    ) -> None:
        self._model = model
        self._memory = memory
        self.support = support or find_direct_support(model).upper()
        whitening = whitening or Whitening.none(self.layers)
        if len(whitening.matrices) != self.layers:
            raise ValueError("the whitening is of a model with another number of layers")
        self._whitening = whitening.to(next(iter(model.parameters())))
        self._projectors: dict[tuple[int, int], TokenProjector] = {}

    @property
    def layers(self) -> int:
        """Attention layers that judge."""
        return len(self.support.projections)

    @property
    def first_layer(self) -> int:
        """Which of the model's attention layers is the first that judges, from 0."""
        return self.support.skipped

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how this architecture is handled."""
        kinds = sorted({type(module).__name__ for module in self.support.constants})
        if not kinds:
            return ()
        return (
            f"{', '.join(kinds)} mix positions without attention: what they give counts as a "
            "constant, and only attention layers judge",
        )

    @property
    def device(self) -> torch.device:
        """Of the model."""
        device: torch.device = next(iter(self._model.parameters())).device
        return device

    def whitened(self, whitening: Whitening) -> DirectGradients:
        """The same with another whitening."""
        return DirectGradients(self._model, whitening, self.support, self._memory)

    def add_moments(self, batch: Batch, moments: SecondMoments) -> None:
        """Adds x xᵀ of the value projections' inputs at all of a batch's positions."""
        lengths = torch.tensor(batch.lengths, device=self.device)
        mask_BT = torch.arange(batch.length, device=self.device) < lengths[:, None]
        inputs: list[Tensor] = []
        with (
            torch.no_grad(),
            attention_by(self._model, Recorder()),
            captured_inputs(self.support.projections, inputs),
        ):
            self._model(input_ids=batch.ids_BT, use_cache=False)
        moments.add(inputs, mask_BT)

    def run(self, batch: Batch, receive: Receiver) -> Tensor:
        """One forward and one backward pass: the losses [J] of its labels in nats, float64.

        Args:
            receive: sees every label's factors, a layer and some labels at a time.
        """
        run = DirectPass(self._model, self.support, batch, self._whitening, receive, self._memory)
        return run.losses_J

    def queries(self, batches: Sequence[Batch]) -> DirectQueries:
        """The factors of all labels of the batches, in order."""
        found = [self._factors(batch) for batch in batches]
        return DirectQueries(tuple(map(LayerFactors.joined, zip(*found, strict=True))))

    def _factors(self, batch: Batch) -> list[LayerFactors]:
        """The factors of all labels of a batch, in their order, a layer each."""
        parts: list[list[LayerFactors]] = [[] for _ in range(self.layers)]
        places: list[list[Tensor]] = [[] for _ in range(self.layers)]

        def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
            parts[layer].append(factors)
            places[layer].append(labels_N)

        self.run(batch, receive)
        return [
            LayerFactors.joined(of_layer).taken(torch.argsort(torch.cat(at)))
            for of_layer, at in zip(parts, places, strict=True)
        ]

    def cosines(self, batch: Batch, queries: DirectQueries) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, and a layer each [J, Q] the cosines."""
        shape = int(batch.labels_BT.sum()), queries.count
        dtype = queries.layers[0].slope_GJRE.dtype
        found = [torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(self.layers)]

        def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
            found[layer][labels_N] = factors.cosines(queries.layers[layer])

        return self.run(batch, receive), iter(found)

    def measures(self, batch: Batch, dimension: int, seed: int) -> TokenMeasures:
        """Losses, norms over all layers, and projected unit gradients of a batch's labels."""
        count = int(batch.labels_BT.sum())
        dtype = torch.float64 if self._dtype is torch.float64 else torch.float32
        squares_J = torch.zeros(count, dtype=torch.float64, device=self.device)
        vectors_JK = torch.zeros(count, dimension, dtype=dtype, device=self.device)
        projector = self._projector(dimension, seed) if dimension else None

        def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
            squares_J[labels_N] += factors.norm_J**2
            if projector is not None:
                vectors_JK[labels_N] += projector.of_layer(layer, factors)

        losses_J = self.run(batch, receive)
        return TokenMeasures(
            at_labels(losses_J, batch),
            at_labels(squares_J.sqrt(), batch),
            at_labels(vectors_JK, batch) if dimension else None,
        )

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(iter(self._model.parameters())).dtype
        return dtype

    def _projector(self, dimension: int, seed: int) -> TokenProjector:
        key = dimension, seed
        if key not in self._projectors:
            self._projectors[key] = TokenProjector(dimension, seed, self.layers)
        return self._projectors[key]
