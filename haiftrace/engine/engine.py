"""The gradient engine: everything that haiftrace asks of a model's gradients, in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import BatchedPass, Pass, Reduced, Traced
from haiftrace.engine.capture import Metric, NeedsSingleRecord, Wanted
from haiftrace.engine.curvature.ekfac_factors import Fisher, FisherEstimator
from haiftrace.engine.curvature.hvp import gauss_newton_product, hessian_product
from haiftrace.engine.full_gradient import gradient_of
from haiftrace.engine.jvp import (
    Direction,
    forward_mode,
    from_pass,
    stacked_forward_mode,
)
from haiftrace.engine.looped_pass import LoopPass
from haiftrace.engine.losses import batch_losses
from haiftrace.engine.projection import Projector
from haiftrace.engine.slicing import resolved
from haiftrace.engine.support import Support, find_support
from haiftrace.engine.token_norms import TokenGradients, token_gradients

Result = TypeVar("Result")
CurvatureKind = Literal["gauss-newton", "hessian"]

FULL_WIDTH = 768
"""Hidden width from which matrix products of a few hundred rows are large enough on a CPU."""

FEW_DIRECTIONS = 16
"""Directions up to which forward-mode passes always cost less than forming every token's
gradient."""

PASSES_A_GRADIENT = 0.7
"""Forward-mode passes over a record that cost as much as forming the gradients of its labels, by
the positions that a label sees on average: measured from 24 to 106 tokens, from 0.2M parameters
(0.7) to 135M (0.9)."""

LEAST_LABELS = 8
"""Labels of one backward pass on a CPU, at least: fewer make too small matrix products."""


class GradientEngine:
    """Gradients of token losses over chosen parameters of a causal language model.

    Args:
        model: evaluation mode, eager attention.
        parameters: names of the parameters that count, as `model.named_parameters()` has them, or
            of parts of matrices (see `haiftrace.parameters.matrix_slice`).
        memory: bytes that the backward pass of one chunk of labels may take, approximately.
        support: which fast paths to use; found by trying them on the model when None.

    Raises:
        ValueError: a name or part that the model does not have, or none at all.
    """

    def __init__(
        self,
        model: Any,
        parameters: Sequence[str],
        memory: int = 512 << 20,
        support: Support | None = None,
    ) -> None:
        owned = dict(model.named_parameters())
        self.model = model
        self.parameters, parts = resolved(parameters, owned)
        self.device = next(iter(owned.values())).device
        self._memory = memory
        self.support = support or find_support(Traced(model, self.parameters, parts=parts))
        self._traced = Traced(
            model, self.parameters, self.support.shared, parts, self.support.plain_head
        )

    @cached_property
    def gradient_bytes(self) -> int:
        """Memory of one gradient over the parameters that count, in at least float32."""
        return sum(
            self._traced.size(name) * max(4, parameter.element_size())
            for name, parameter in self.parameters.items()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how this architecture is handled; empty on fast paths."""
        return self.support.notes

    def projector(self, dimension: int, seed: int) -> Projector:
        """A projector to `dimension` numbers on this engine's device."""
        dtype = torch.float64 if self._dtype is torch.float64 else torch.float32
        return Projector(dimension, seed, self.device, dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.parameters.values())).dtype

    def losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of every label in nats, [B, T] in float64, zero elsewhere."""
        return batch_losses(self.model, batch)

    def token_gradients(
        self,
        batch: Batch,
        projector: Projector | None = None,
        metric: Metric | None = None,
        queries: Mapping[str, Tensor] | None = None,
    ) -> TokenGradients:
        """Norm of every token's gradient, and what else is asked of it.

        Args:
            projector: to have the projection of its unit vector.
            metric: to have norms ‖M g_kj‖ under this map; not together with a projector.
            queries: directions by parameter name, [Q, *parameter], to have dots with them.
        """
        assert projector is None or metric is None
        wanted = Wanted(projector, queries, few=queries is not None, metric=metric)
        return self._token_gradients(batch, wanted)

    def _token_gradients(self, batch: Batch, wanted: Wanted) -> TokenGradients:
        formed = wanted.queries is not None or wanted.metric is not None
        chunk = partial(self._chunk, formed=formed)
        whole = self._together(batch, lambda: token_gradients(self._pass, batch, wanted, chunk))
        if whole is not None:
            return whole
        return TokenGradients.joined(
            batch, [self._token_gradients(row, wanted) for row in batch.rows()]
        )

    def token_dots(self, batch: Batch, queries: Mapping[str, Tensor]) -> Tensor:
        """`v·g_kj` [Q, B, T] for every token and direction, float64, exact, by the cheaper way.

        A few directions are a forward-mode pass each, which grows with a record's length. Of many,
        every token's gradient is formed in reverse mode, which grows with its square, and met with
        all of them at once.

        Args:
            queries: directions by parameter name, [Q, *parameter].
        """
        count = len(next(iter(queries.values())))
        if count <= few_directions(batch) or not self.support.batched:
            directions = [{name: part[q] for name, part in queries.items()} for q in range(count)]
            return self.directional(batch, directions)[1]
        # One record at a time: each is cut to what its own labels see.
        each = [self.token_gradients(row, queries=queries).dots_QBT for row in batch.rows()]
        return batch.padded([dots for dots in each if dots is not None], along=2, join=1)

    def record_gradients(
        self,
        batch: Batch,
        weights_NBT: Tensor,
        projector: Projector | None = None,
        queries: dict[str, Tensor] | None = None,
        metric: Metric | None = None,
    ) -> Reduced:
        """Reductions of `Σ_j w_j g_kj` for N weightings of the tokens of each record.

        Args:
            weights_NBT: weight of every token's loss; looked at only where a token is a label.
            projector: to have the projections [N, B, D].
            queries: query gradients by parameter name, [Q, *parameter], to have dots [N, B, Q].
            metric: to have norms under this map; projections and dots are those without it.
        """
        weights_NBT = weights_NBT.to(self.device) * batch.labels_BT
        wanted = Wanted(projector, queries, 4 * len(weights_NBT) <= batch.length, metric)
        whole = self._together(
            batch, lambda: self._whole_pass(batch, wanted).reduce(weights_NBT[:, :, 1:])
        )
        if whole is not None:
            return whole
        each = [
            self.record_gradients(
                row, weights_NBT[:, i : i + 1, : row.length], projector, queries, metric
            )
            for i, row in enumerate(batch.rows())
        ]
        return Reduced.joined(each)

    def directional(self, batch: Batch, directions: Sequence[Direction]) -> tuple[Tensor, Tensor]:
        """Losses [B, T] and `v·g_kj` [Q, B, T] for every token and direction, float64, exact."""
        if self.support.forward_mode:
            return self._forward_mode(batch, directions)
        wanted = Wanted(None, {n: torch.stack([d[n] for d in directions]) for n in self.parameters})
        whole = self._together(batch, lambda: from_pass(self._whole_pass(batch, wanted), batch))
        if whole is not None:
            return whole
        each = [self.directional(row, directions) for row in batch.rows()]
        losses_BT = batch.padded([losses for losses, _ in each], along=1)
        return losses_BT, batch.padded([dots for _, dots in each], along=2, join=1)

    def _forward_mode(self, batch: Batch, directions: Sequence[Direction]) -> tuple[Tensor, Tensor]:
        if len(directions) == 1 or not self.support.stacked:
            return forward_mode(self._traced, batch, directions)
        # A direction holds its own tangents of what a pass ends with, and of what leads to it.
        words, width = self.model.get_input_embeddings().weight.shape
        widest = 8 * width if self.support.plain_head else words
        row_bytes = 4 * batch.ids_BT.numel() * 4 * widest
        together = max(1, self._memory // row_bytes)
        parts = [
            stacked_forward_mode(self._traced, batch, directions[start : start + together])
            for start in range(0, len(directions), together)
        ]
        return parts[0][0], torch.cat([dots_QBT for _, dots_QBT in parts])

    def gradient(self, batch: Batch, weights_BT: Tensor) -> dict[str, Tensor]:
        """`∇ Σ w l` itself, by parameter name, in at least float32 (the query side)."""
        return gradient_of(self._traced, batch, weights_BT)

    def curvature_product(
        self, batch: Batch, weights_BT: Tensor, direction: Direction, curvature: CurvatureKind
    ) -> dict[str, Tensor]:
        """The curvature of `Σ w l` times a direction, by parameter name, in at least float32."""
        if curvature == "hessian":
            return hessian_product(self._traced, batch, weights_BT, direction)
        forward = self.support.forward_mode
        return gauss_newton_product(self._traced, batch, weights_BT, direction, forward)

    def fisher(self, fisher: Fisher, seed: int) -> FisherEstimator:
        """An estimator of the Kronecker factors of the parameters in scope.

        Raises:
            NoFactors: one of them belongs to no plain linear map.
        """
        return FisherEstimator(self._traced, fisher, seed)

    def _together(self, batch: Batch, run: Callable[[], Result]) -> Result | None:
        """What `run` gives of the whole batch; None where its records have to be taken singly.

        That may show only here: tokens that are routed by the data can take a path that the trial
        of `find_support` did not see.
        """
        if batch.size == 1:
            return run()
        if self.support.single_record:
            return None
        try:
            return run()
        except NeedsSingleRecord:
            return None

    def _whole_pass(self, batch: Batch, wanted: Wanted) -> Pass:
        return self._pass(batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], wanted)

    def _pass(self, ids_BT: Tensor, targets_BJ: Tensor, wanted: Wanted) -> Pass:
        make = BatchedPass if self.support.batched else LoopPass
        return make(self._traced, ids_BT, targets_BJ, wanted)

    def _chunk(self, first: int, batch: int, formed: bool = False) -> int:
        """Labels of one pass: L cotangents over first + L positions of each record.

        On a CPU a pass is fastest while its rows stay near the caches; on a GPU it may be as large
        as the memory budget lets it.

        Args:
            formed: every label's gradient of the largest matrix has to be held.
        """
        if not self.support.batched:
            return 1 << 30
        config = self.model.config.get_text_config()
        width = config.hidden_size
        wide = 4 * width + 4 * (getattr(config, "intermediate_size", None) or 4 * width)
        heads = getattr(config, "num_attention_heads", 0)  # a state-space model has none
        row_bytes = 4 * (wide + 4 * heads * first)
        rows = self._memory // row_bytes // batch
        most = max(1, int((math.sqrt(first * first + 4 * rows) - first) / 2))
        if self.device.type == "cpu":
            # A chunk of L labels works in vain on L²/2 rows that its labels cannot see and runs
            # the model forward once: the sum is least at L = √(2·first). Where products are small,
            # in narrow models or a single record, larger ones make up for more of it.
            small = max(1.0, FULL_WIDTH / width) * (4 if batch == 1 else 1)
            most = min(most, max(LEAST_LABELS, round(math.sqrt(2 * first * small))))
        if formed:
            largest = max(value.numel() for value in self.parameters.values())
            most = min(most, max(1, self._memory // (12 * largest * batch)))
        return most


def few_directions(batch: Batch) -> int:
    """How many forward-mode passes are worth a reverse one that forms every label's gradient."""
    seen_T = torch.arange(batch.length, device=batch.labels_BT.device)
    seen = float((batch.labels_BT * seen_T).sum()) / batch.labels_BT.numel()
    return max(FEW_DIRECTIONS, int(PASSES_A_GRADIENT * seen))
