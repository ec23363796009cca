"""The gradient engine: losses, gradients and their reductions for one model and scope."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from haiftrace.engine.accumulators import Metric, ReductionSpec
from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import BatchedPass, Pass, ReducedGradients
from haiftrace.engine.capture import NeedsSingleRecord
from haiftrace.engine.curvature.ekfac_factors import Fisher, FisherEstimator
from haiftrace.engine.curvature.hvp import gauss_newton_product, hessian_product
from haiftrace.engine.full_gradient import gradient_of
from haiftrace.engine.jvp import (
    Direction,
    forward_mode,
    reverse_mode,
    stacked_forward_mode,
)
from haiftrace.engine.looped_pass import LoopPass
from haiftrace.engine.losses import batch_losses
from haiftrace.engine.projection import Projector
from haiftrace.engine.slicing import resolved
from haiftrace.engine.support import Support, find_support
from haiftrace.engine.token_norms import ReducedTokenGradients, token_gradients
from haiftrace.engine.traced_model import TracedModel

Result = TypeVar("Result")
CurvatureKind = Literal["gauss-newton", "hessian"]

FULL_WIDTH = 768
"""Hidden width from which matrix products of a few hundred rows are large enough on a CPU."""

FORWARD_MODE_DIRECTIONS = 16
"""Directions up to which forward-mode passes always cost less than forming every per-token
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
            of matrix slices (see `haiftrace.parameters.matrix_slice`).
        memory: bytes that the backward pass of one chunk of labels may take, approximately.
        support: the fast paths to take; by a trial on the model when None.

    Raises:
        ValueError: a parameter or slice that the model does not have, or no names.
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
        self.parameters, slices = resolved(parameters, owned)
        self.device = next(iter(owned.values())).device
        self._memory = memory
        self.support = support or find_support(TracedModel(model, self.parameters, slices=slices))
        self._traced = TracedModel(
            model, self.parameters, self.support.shared, slices, self.support.plain_head
        )

    @cached_property
    def gradient_bytes(self) -> int:
        """Memory of one gradient over the traced parameters, in at least float32."""
        return sum(
            self._traced.size(name) * max(4, parameter.element_size())
            for name, parameter in self.parameters.items()
        )

    @cached_property
    def entry_count(self) -> int:
        """Number of entries of one gradient over the traced parameters."""
        return sum(self._traced.size(name) for name in self.parameters)

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
    ) -> ReducedTokenGradients:
        """Norms of the per-token gradients g_kj, and their projections or dots.

        Args:
            projector: to have the projections of the unit gradients; not together with a metric.
            metric: to have norms ‖M g_kj‖ under this map.
            queries: directions by parameter name, [Q, *parameter], to have dots with them.
        """
        assert projector is None or metric is None
        few_weightings = queries is not None
        spec = ReductionSpec(projector, queries, few_weightings=few_weightings, metric=metric)
        return self._token_gradients(batch, spec)

    def _token_gradients(self, batch: Batch, spec: ReductionSpec) -> ReducedTokenGradients:
        formed = spec.queries is not None or spec.metric is not None
        chunk = partial(self._chunk, formed=formed)
        reduced = self._try_batched(batch, lambda: token_gradients(self._pass, batch, spec, chunk))
        if reduced is not None:
            return reduced
        return ReducedTokenGradients.joined(
            batch, [self._token_gradients(row, spec) for row in batch.rows()]
        )

    def token_dots(self, batch: Batch, queries: Mapping[str, Tensor]) -> Tensor:
        """`v·g_kj` [Q, B, T] for every token and direction, float64, exact, by the cheaper mode.

        Forward mode costs a pass a direction, which grows with a record's length. Reverse mode
        forms every per-token gradient, which grows with the length's square, and multiplies it with
        all directions at once.

        Args:
            queries: directions by parameter name, [Q, *parameter].
        """
        count = len(next(iter(queries.values())))
        if count <= forward_mode_limit(batch) or not self.support.batched:
            directions = [{name: rows[q] for name, rows in queries.items()} for q in range(count)]
            return self.directional_derivatives(batch, directions)[1]
        # One record at a time: each is cut to the prefix that its own labels see.
        rows = [self.token_gradients(row, queries=queries).dots_QBT for row in batch.rows()]
        return batch.padded([dots for dots in rows if dots is not None], along=2, join=1)

    def record_gradients(
        self,
        batch: Batch,
        weights_NBT: Tensor,
        projector: Projector | None = None,
        queries: dict[str, Tensor] | None = None,
        metric: Metric | None = None,
    ) -> ReducedGradients:
        """Reductions of `Σ_j w_j g_kj` for N weightings of the tokens of each record.

        Args:
            weights_NBT: weight of every token's loss; looked at only where a token is a label.
            projector: to have the projections [N, B, K].
            queries: query gradients by parameter name, [Q, *parameter], to have dots [N, B, Q].
            metric: to have norms under this map; projections and dots are those without it.
        """
        weights_NBT = weights_NBT.to(self.device) * batch.labels_BT
        spec = ReductionSpec(projector, queries, 4 * len(weights_NBT) <= batch.length, metric)
        reduced = self._try_batched(
            batch, lambda: self._full_pass(batch, spec).reduce(weights_NBT[:, :, 1:])
        )
        if reduced is not None:
            return reduced
        rows = [
            self.record_gradients(
                row, weights_NBT[:, i : i + 1, : row.length], projector, queries, metric
            )
            for i, row in enumerate(batch.rows())
        ]
        return ReducedGradients.joined(rows)

    def directional_derivatives(
        self, batch: Batch, directions: Sequence[Direction]
    ) -> tuple[Tensor, Tensor]:
        """Losses [B, T] and `v·g_kj` [Q, B, T] for every token and direction, float64, exact."""
        if self.support.forward_mode:
            return self._forward_mode(batch, directions)
        queries = {name: torch.stack([d[name] for d in directions]) for name in self.parameters}
        spec = ReductionSpec(None, queries)
        result = self._try_batched(batch, lambda: reverse_mode(self._full_pass(batch, spec), batch))
        if result is not None:
            return result
        rows = [self.directional_derivatives(row, directions) for row in batch.rows()]
        losses_BT = batch.padded([losses for losses, _ in rows], along=1)
        return losses_BT, batch.padded([dots for _, dots in rows], along=2, join=1)

    def _forward_mode(self, batch: Batch, directions: Sequence[Direction]) -> tuple[Tensor, Tensor]:
        if len(directions) == 1 or not self.support.stacked:
            return forward_mode(self._traced, batch, directions)
        # Every direction holds tangents of its own, of the pass's output and of what leads to it.
        vocabulary, width = self.model.get_input_embeddings().weight.shape
        widest = 8 * width if self.support.plain_head else vocabulary
        row_bytes = 4 * batch.ids_BT.numel() * 4 * widest
        step = max(1, self._memory // row_bytes)
        chunks = [
            stacked_forward_mode(self._traced, batch, directions[start : start + step])
            for start in range(0, len(directions), step)
        ]
        return chunks[0][0], torch.cat([dots_QBT for _, dots_QBT in chunks])

    def gradient(self, batch: Batch, weights_BT: Tensor) -> dict[str, Tensor]:
        """`∇ Σ w l` itself, by parameter name, in at least float32: a query gradient."""
        return gradient_of(self._traced, batch, weights_BT)

    def curvature_product(
        self, batch: Batch, weights_BT: Tensor, direction: Direction, curvature: CurvatureKind
    ) -> dict[str, Tensor]:
        """The curvature of `Σ w l` times a direction, by parameter name, in at least float32.

        Args:
            weights_BT: weight of every token's loss; looked at only where a token is a label.
            direction: a tensor of its parameter's shape by parameter name.
        """
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

    def _try_batched(self, batch: Batch, run: Callable[[], Result]) -> Result | None:
        """The result of `run` for the batch; None where it has to be run a record at a time.

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

    def _full_pass(self, batch: Batch, spec: ReductionSpec) -> Pass:
        """A pass over all positions of a batch that predict a token."""
        return self._pass(batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], spec)

    def _pass(self, ids_BT: Tensor, targets_BJ: Tensor, spec: ReductionSpec) -> Pass:
        make = BatchedPass if self.support.batched else LoopPass
        return make(self._traced, ids_BT, targets_BJ, spec)

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
            # A chunk of L labels computes L²/2 rows that its labels cannot see and runs the model
            # forward once: the sum is least at L = √(2·first). Where products are small, in narrow
            # models or a single record, larger ones make up for more of it.
            small = max(1.0, FULL_WIDTH / width) * (4 if batch == 1 else 1)
            most = min(most, max(LEAST_LABELS, round(math.sqrt(2 * first * small))))
        if formed:
            largest = max(value.numel() for value in self.parameters.values())
            most = min(most, max(1, self._memory // (12 * largest * batch)))
        return most


def forward_mode_limit(batch: Batch) -> int:
    """Number of directions up to which forward mode costs less than every per-token gradient."""
    seen_T = torch.arange(batch.length, device=batch.labels_BT.device)
    seen = float((batch.labels_BT * seen_T).sum()) / batch.labels_BT.numel()
    return max(FORWARD_MODE_DIRECTIONS, int(PASSES_A_GRADIENT * seen))
