"""Materialised gradients of weighted token losses, by parameter name: query gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.traced_model import TracedModel


class RequireGrad:
    """Context in which the traced parameters require gradients; as before when it is left."""

    def __init__(self, traced: TracedModel) -> None:
        self._traced = traced
        self._grad = torch.enable_grad()

    def __enter__(self) -> None:
        self._before = {n: p.requires_grad for n, p in self._traced.parameters.items()}
        for parameter in self._traced.parameters.values():
            parameter.requires_grad_(True)
        self._grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self._grad.__exit__(*error)
        for name, parameter in self._traced.parameters.items():
            parameter.requires_grad_(self._before[name])


def gradient_of(traced: TracedModel, batch: Batch, weights_BT: Tensor) -> dict[str, Tensor]:
    """`∇ Σ w l` over a batch, by parameter name, in at least float32, by one backward pass.

    Args:
        weights_BT: weight of every token's loss; looked at only where a token is a label.
    """
    with RequireGrad(traced):
        logits = traced.logits(batch.ids_BT[:, :-1], batch.length - 1)
        losses = token_losses(logits, batch.ids_BT[:, 1:])
        weights = (weights_BT.to(losses.device) * batch.labels_BT)[:, 1:]
        total = (losses * weights.to(losses.dtype)).sum()
        grads = torch.autograd.grad(total, list(traced.parameters.values()), allow_unused=True)
    return {
        name: traced.zeros(name) if grad is None else widened(traced.narrowed(name, grad))
        for name, grad in zip(traced.parameters, grads, strict=True)
    }
