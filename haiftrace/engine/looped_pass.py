"""The slow exact pass, for architectures whose backward pass cannot be batched.

One ordinary backward pass for each weighting and record, on the record alone; every parameter's
gradient is materialised, reduced and dropped. It works wherever `torch.autograd.grad` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from haiftrace.engine.batched_pass import Reduced, Traced, as_reduced
from haiftrace.engine.capture import Wanted
from haiftrace.engine.full_gradient import RequireGrad
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.reductions import WholeUse


class LoopPass:
    """Same arguments and results as `BatchedPass`, by a loop of single backward passes."""

    def __init__(self, traced: Traced, ids_BT: Tensor, targets_BJ: Tensor, wanted: Wanted) -> None:
        self._traced = traced
        self._wanted = wanted
        keep = targets_BJ.shape[1]
        rows = []
        with RequireGrad(traced):
            for ids, targets in zip(ids_BT, targets_BJ, strict=True):
                logits = traced.logits(ids.unsqueeze(0), keep)
                rows.append(token_losses(logits, targets.unsqueeze(0)).squeeze(0))
        self._losses = rows
        self.losses_BJ = torch.stack([row.detach() for row in rows])

    def reduce(self, weights_NBJ: Tensor) -> Reduced:
        with RequireGrad(self._traced):
            by_weighting = [
                [self._one(loss, weights) for loss, weights in zip(self._losses, row, strict=True)]
                for row in weights_NBJ
            ]
        slots = range(len(by_weighting[0][0]))
        totals = [
            torch.stack([torch.stack([record[s] for record in row]) for row in by_weighting])
            for s in slots
        ]
        return as_reduced(totals, self._wanted)

    def _one(self, losses_J: Tensor, weights_J: Tensor) -> list[Tensor]:
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
        whole: dict[str, Tensor] = {}
        for name, grad in zip(names, grads, strict=True):
            traced = self._traced
            found = traced.zeros(name) if grad is None else traced.narrowed(name, grad)
            whole[name] = widened(found)
        return _reduced(whole, self._wanted)


def _reduced(whole: Mapping[str, Tensor], wanted: Wanted) -> list[Tensor]:
    each = [_reduction(name, grad, wanted) for name, grad in whole.items()]
    total = [sum(parts[1:], start=parts[0]) for parts in zip(*each, strict=True)]
    if wanted.metric is not None:
        measured = wanted.metric.apply(whole).values()
        total[0] = torch.stack([part.double().pow(2).sum() for part in measured]).sum()
    return total


def _reduction(name: str, grad: Tensor, wanted: Wanted) -> list[Tensor]:
    use = WholeUse(name, grad.ndim)
    reduced = [use.squared_norm(grad).squeeze(0)]
    if wanted.projector is not None:
        reduced.append(use.projection(grad, wanted.projector).squeeze(0))
    if wanted.queries is not None:
        reduced.append(use.dots(grad, wanted.queries[name]).squeeze(0))
    return reduced
