"""Direct value gradients of one model: a record's per-token gradients in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.direct.direct_pass import DirectPass, Receiver
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.projection import TokenProjector
from haiftrace.engine.direct.support import DirectSupport
from haiftrace.engine.direct.trial import find_direct_support
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import Whitening
from haiftrace.engine.similarity import TokenCost, TokenMeasures, at_labels

MEMORY = 512 << 20
"""Default bytes of activations that a pass may save for its backward pass."""


@dataclass(frozen=True, eq=False)
class DirectQueries:
    """The factors of Q query tokens.

    Attributes:
        layers: of each layer.
    """

    layers: tuple[LayerFactors, ...]

    @property
    def count(self) -> int:
        """Q."""
        return self.layers[0].count

    def select(self, tokens: Sequence[int]) -> DirectQueries:
        """The factors of a subset of the query tokens, by their indices."""
        return DirectQueries(tuple(layer.select(list(tokens)) for layer in self.layers))


class DirectGradients:
    """Direct value gradients of token losses, with whitened inputs (a `TokenSimilarity`).

    Args:
        model: a causal language model in evaluation mode.
        whitening: of the value projections' inputs; None for none.
        support: what the pass needs to know of the model; by a trial on it when None.
        memory: bytes of activations that a pass may save for its backward pass, approximately.

    Raises:
        NoDirectGradients: the model has no such pass.
        ValueError: the whitening has another number of layers.
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
        """Number of attention layers whose direct gradients are taken."""
        return len(self.support.projections)

    @property
    def input_width(self) -> int:
        """D, numbers of a value projection's input; of the widest."""
        return self.support.input_width

    @property
    def first_layer(self) -> int:
        """Index of the first of them among the model's attention layers, from 0."""
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

    @cached_property
    def token_cost(self) -> TokenCost:
        """What one query token costs: that of the label of two tokens, in one small pass."""
        layers = self.queries([make_batch([[0, 0]], device=self.device)]).layers
        return TokenCost(
            sum(layer.nbytes for layer in layers), sum(layer.dot_work for layer in layers)
        )

    def whitened(self, whitening: Whitening) -> DirectGradients:
        """The direct gradients of the same model with another whitening."""
        return DirectGradients(self._model, whitening, self.support, self._memory)

    def value_inputs(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The value projections' inputs [B, T, D] a layer, and [B, T] what is no padding."""
        lengths = torch.tensor(batch.lengths, device=self.device)
        mask_BT = torch.arange(batch.length, device=self.device) < lengths[:, None]
        inputs: list[Tensor] = []
        with (
            torch.no_grad(),
            attention_by(self._model, Recorder()),
            captured_inputs(self.support.projections, inputs),
        ):
            # Without the output head, which is nearly a third of a small model's forward pass.
            self._model.base_model(input_ids=batch.ids_BT, use_cache=False)
        return inputs, mask_BT

    def run(self, batch: Batch, receive: Receiver) -> Tensor:
        """One forward and one backward pass: the losses [J] of its labels in nats, float64.

        Args:
            receive: gets every label's factors, a layer and N labels at a time.
        """
        run = DirectPass(self._model, self.support, batch, self._whitening, receive, self._memory)
        return run.losses_J

    def queries(self, batches: Sequence[Batch]) -> DirectQueries:
        """The factors of all labels of the batches, in order."""
        factors = [self._factors(batch) for batch in batches]
        return DirectQueries(tuple(map(LayerFactors.joined, zip(*factors, strict=True))))

    def _factors(self, batch: Batch) -> list[LayerFactors]:
        """The factors of all labels of a batch, in their order, of each layer."""
        chunks: list[list[LayerFactors]] = [[] for _ in range(self.layers)]
        order: list[list[Tensor]] = [[] for _ in range(self.layers)]

        def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
            chunks[layer].append(factors)
            order[layer].append(labels_N)

        self.run(batch, receive)
        return [
            LayerFactors.joined(factors).select(torch.argsort(torch.cat(labels)))
            for factors, labels in zip(chunks, order, strict=True)
        ]

    def cosines(self, batch: Batch, queries: DirectQueries) -> tuple[Tensor, Iterator[Tensor]]:
        """Losses [J] of a batch's labels in nats, float64, and the cosines [J, Q] of each layer."""
        shape = int(batch.labels_BT.sum()), queries.count
        dtype = queries.layers[0].output_grad_GJRE.dtype
        cosines = [torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(self.layers)]

        def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
            cosines[layer][labels_N] = factors.cosines(queries.layers[layer])

        return self.run(batch, receive), iter(cosines)

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
