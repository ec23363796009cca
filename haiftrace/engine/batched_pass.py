"""Reduced gradients of N weightings of a batch's token losses, by one batched backward pass.

The pass runs the model once over a prefix of the records, then back-propagates activations only:
`torch.autograd.grad(..., is_grads_batched=True)` from the input h of the output head, where a
weighting of the losses is a cotangent `w_j (∂l_j/∂logits_j) W`; taps (see `capture`) reduce each
parameter's gradient in the backward pass. One-hot weightings give per-token gradients, others
record gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from haiftrace.engine.accumulators import Accumulators, ReductionSpec
from haiftrace.engine.activations import cached_derivatives
from haiftrace.engine.capture import Capture
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import HeadBiasReduction, HeadReduction
from haiftrace.engine.traced_model import TracedModel


@dataclass(frozen=True)
class ReducedGradients:
    """Reductions of gradients, one for each of N weightings and B records.

    Attributes:
        norm_NB: Frobenius norm over all traced parameters, float64.
        projected_NBK: random projection, or None where none was requested.
        dots_NBQ: inner products with the query gradients, float64, or None.
    """

    norm_NB: Tensor
    projected_NBK: Tensor | None = None
    dots_NBQ: Tensor | None = None

    @classmethod
    def joined(cls, batches: Sequence[ReducedGradients]) -> ReducedGradients:
        """The reductions of several batches as those of one."""
        projected = [b.projected_NBK for b in batches if b.projected_NBK is not None]
        dots = [b.dots_NBQ for b in batches if b.dots_NBQ is not None]
        return cls(
            torch.cat([b.norm_NB for b in batches], 1),
            torch.cat(projected, 1) if projected else None,
            torch.cat(dots, 1) if dots else None,
        )


class Pass(Protocol):
    """One forward pass, ready to reduce gradients of weightings of its losses.

    Attributes:
        losses_BJ: token losses in nats.
    """

    losses_BJ: Tensor

    def reduce(self, weights_NBJ: Tensor) -> ReducedGradients:
        """Reduced gradients `∇ Σ_j w_j l_j` of N weightings."""
        ...


class BatchedPass:
    """The fast pass: ghost norms and projections from batched activation cotangents.

    Args:
        traced: model and parameters.
        ids_BT: token ids up to and including the last position that predicts a label.
        targets_BJ: the labels of the last J positions.
        spec: the reductions that `reduce` returns.

    Attributes:
        call_counts: calls that each parameter occurs in, by name.

    Raises:
        NeedsSingleRecord: the batch must have one record.
        RuntimeError: PyTorch cannot batch this architecture's backward pass, or the output head is
            not a plain linear map.
    """

    def __init__(
        self, traced: TracedModel, ids_BT: Tensor, targets_BJ: Tensor, spec: ReductionSpec
    ) -> None:
        batch, keep = targets_BJ.shape
        self._traced = traced
        self._spec = spec
        head = traced.head
        weight = next(iter(traced.parameters.values()))
        dtype = widened(weight.new_empty(0)).dtype
        self._accumulators = Accumulators(batch, spec, ids_BT.device, dtype)
        capture, logits = self._captured(ids_BT, keep, traced.shared)
        shared = frozenset(name for name, count in capture.call_counts.items() if count > 1)
        if shared - traced.shared:
            # Calls that only these tokens bring about: two taps would miss their cross term.
            capture, logits = self._captured(ids_BT, keep, traced.shared | shared)
        self.call_counts = capture.call_counts
        self._embeddings = capture.embeddings
        name = traced.name_of(head.weight)
        lookups = sum(reduction.name == name for reduction, _ in capture.embeddings)
        if capture.head is None or (name is not None and capture.call_counts[name] > lookups):
            raise RuntimeError(
                "the output head is no plain linear map, tied to nothing but lookups"
            )
        with torch.enable_grad():
            losses = token_losses(logits, targets_BJ)
            (grads,) = torch.autograd.grad(losses.sum(), capture.head.logits)
        self.losses_BJ = losses.detach()
        self._logits_grad_BJV = grads[:, -keep:]
        self._hidden = capture.head.hidden
        self._head_reductions = self._make_head_reductions(head)

    def _captured(
        self, ids_BT: Tensor, keep: int, shared: frozenset[str]
    ) -> tuple[Capture, Tensor]:
        """A forward pass with taps, and its logits of the last `keep` positions."""
        traced = self._traced
        batch, positions = ids_BT.shape
        capture = Capture(
            traced.parameters,
            traced.head.weight,
            batch,
            positions,
            self._accumulators,
            shared,
            traced.slices,
        )
        with torch.enable_grad(), cached_derivatives(traced.activations), capture:
            return capture, traced.logits(ids_BT, keep)

    def _make_head_reductions(self, head: Any) -> list[HeadReduction | HeadBiasReduction]:
        grads = widened(self._logits_grad_BJV)
        hidden = widened(self._hidden.detach()[:, -grads.shape[1] :])
        reductions: list[HeadReduction | HeadBiasReduction] = []
        if (name := self._traced.name_of(head.weight)) is not None:
            reductions.append(HeadReduction(name, hidden, grads))
        bias = getattr(head, "bias", None)
        if bias is not None and (name := self._traced.name_of(bias)) is not None:
            reductions.append(HeadBiasReduction(name, grads))
        return reductions

    def _cotangents(self, weights_NBJ: Tensor) -> Tensor:
        """[N, *h.shape]: each weighting's gradient at the input of the head."""
        grads = self._logits_grad_BJV
        hidden_grad_BJC = grads @ self._traced.head.weight.detach().to(grads.dtype)
        weighted = weights_NBJ.to(grads.dtype).unsqueeze(-1) * hidden_grad_BJC
        before = self._hidden.shape[1] - grads.shape[1]
        if before:
            weighted = torch.nn.functional.pad(weighted, (0, 0, before, 0))
        return weighted.to(self._hidden.dtype)

    def reduce(self, weights_NBJ: Tensor) -> ReducedGradients:
        """Reduced gradients `∇ Σ_j w_j l_j` of N weightings."""
        leaves = self._accumulators.leaves
        lookup_outputs = [leaf for _, leaf in self._embeddings]
        grads = torch.autograd.grad(
            self._hidden,
            [*leaves, *lookup_outputs],
            grad_outputs=self._cotangents(weights_NBJ),
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        count = weights_NBJ.shape[0]
        totals = [
            torch.zeros(count, *leaf.shape, dtype=leaf.dtype, device=leaf.device)
            if grad is None
            else grad
            for leaf, grad in zip(leaves, grads, strict=False)
        ]
        for lookup, delta in self._lookups(grads[len(leaves) :]):
            self._add(totals, self._accumulators.reduce([lookup], delta))
        for head_reduction in self._head_reductions:
            self._add(totals, self._accumulators.reduce([head_reduction], weights_NBJ))
            for lookup, delta in self._lookups(grads[len(leaves) :]):
                if lookup.name == head_reduction.name and isinstance(head_reduction, HeadReduction):
                    cross_NB = head_reduction.tied_cross(weights_NBJ, lookup, delta)
                    totals[0] = totals[0] + 2 * cross_NB
        return as_reduced(totals, self._spec)

    def _lookups(self, grads: tuple[Tensor | None, ...]) -> list[tuple[Any, Tensor]]:
        """The embedding look-ups, each with the gradient [N, B, I, C] of its output."""
        return [
            (lookup, widened(grad.reshape(*grad.shape[:2], -1, grad.shape[-1])))
            for (lookup, _), grad in zip(self._embeddings, grads, strict=True)
            if grad is not None
        ]

    @staticmethod
    def _add(totals: list[Tensor], terms: list[Tensor]) -> None:
        for slot, term in enumerate(terms):
            totals[slot] = totals[slot] + term


def as_reduced(totals: list[Tensor], spec: ReductionSpec) -> ReducedGradients:
    """Names the totals of squared norm, projection and dots, in the accumulators' order."""
    rest = iter(totals[1:])
    return ReducedGradients(
        norm_NB=totals[0].clamp_min(0.0).sqrt(),
        projected_NBK=next(rest) if spec.projector is not None else None,
        dots_NBQ=next(rest) if spec.queries is not None else None,
    )
