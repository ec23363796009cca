"""The slow exact pass, for architectures whose backward pass cannot be batched.

One ordinary backward pass for each weighting and record, on the record alone; every parameter's
gradient is materialised, reduced and dropped. It works wherever `torch.autograd.grad` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from haiftrace.engine.accumulators import ReductionSpec
from haiftrace.engine.batched_pass import ReducedGradients, as_reduced
from haiftrace.engine.full_gradient import RequireGrad
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import DenseReduction
from haiftrace.engine.traced_model import TracedModel


class LoopPass:
    """Same arguments and results as `BatchedPass`, by a loop of single backward passes."""

    def __init__(
        self, traced: TracedModel, ids_BT: Tensor, targets_BJ: Tensor, spec: ReductionSpec
    ) -> None:
        self._traced = traced
        self._spec = spec
        keep = targets_BJ.shape[1]
        rows = []
        with RequireGrad(traced):
            for ids, targets in zip(ids_BT, targets_BJ, strict=True):
                logits = traced.logits(ids.unsqueeze(0), keep)
                rows.append(token_losses(logits, targets.unsqueeze(0)).squeeze(0))
        self._losses = rows
        self.losses_BJ = torch.stack([row.detach() for row in rows])

    def reduce(self, weights_NBJ: Tensor) -> ReducedGradients:
        """Reduced gradients `∇ Σ_j w_j l_j` of N weightings."""
        with RequireGrad(self._traced):
            by_weighting = [
                [
                    self._record(losses, weights)
                    for losses, weights in zip(self._losses, row, strict=True)
                ]
                for row in weights_NBJ
            ]
        slots = range(len(by_weighting[0][0]))
        totals = [
            torch.stack([torch.stack([record[s] for record in row]) for row in by_weighting])
            for s in slots
        ]
        return as_reduced(totals, self._spec)

    def _record(self, losses_J: Tensor, weights_J: Tensor) -> list[Tensor]:
        """Reduced gradients of one weighting of one record, in the order of the accumulators."""
        names = list(self._traced.parameters)
        grads: Sequence[Tensor | None] = [None] * len(names)
        if bool(weights_J.any()):
            grads = torch.autograd.grad(
                losses_J,
                [self._traced.parameters[name] for name in names],
                grad_outputs=weights_J.to(losses_J.dtype),
                retain_graph=True,
                allow_unused=True,
            )
        gradient: dict[str, Tensor] = {}
        for name, grad in zip(names, grads, strict=True):
            traced = self._traced
            narrowed = traced.zeros(name) if grad is None else traced.narrowed(name, grad)
            gradient[name] = widened(narrowed)
        return _reduced(gradient, self._spec)


def _reduced(gradient: Mapping[str, Tensor], spec: ReductionSpec) -> list[Tensor]:
    each = [_reduced_parameter(name, grad, spec) for name, grad in gradient.items()]
    total = [sum(terms[1:], start=terms[0]) for terms in zip(*each, strict=True)]
    if spec.metric is not None:
        mapped = spec.metric.apply(gradient).values()
        total[0] = torch.stack([grad.double().pow(2).sum() for grad in mapped]).sum()
    return total


def _reduced_parameter(name: str, grad: Tensor, spec: ReductionSpec) -> list[Tensor]:
    reduction = DenseReduction(name, grad.ndim)
    reduced = [reduction.squared_norm(grad).squeeze(0)]
    if spec.projector is not None:
        reduced.append(reduction.projection(grad, spec.projector).squeeze(0))
    if spec.queries is not None:
        reduced.append(reduction.dots(grad, spec.queries[name]).squeeze(0))
    return reduced
