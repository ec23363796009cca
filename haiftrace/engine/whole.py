"""Whole gradients of weighted token losses, by parameter name: the query side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from haiftrace.engine.activations import derivatives_once
from haiftrace.engine.backward import Traced
from haiftrace.engine.batch import Batch
from haiftrace.engine.losses import logit_gradients, token_losses, widened


class RequireGrad:
    """Context in which the traced parameters require gradients; as before when it is left."""

    def __init__(self, traced: Traced) -> None:
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


def gradient_of(traced: Traced, batch: Batch, weights_BT: Tensor) -> dict[str, Tensor]:
    """`∇ Σ w l` over a batch, by parameter name, in at least float32: one backward pass.

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


def gradients_of(
    traced: Traced,
    batch: Batch,
    weights_NBT: Tensor,
    batched: bool,
    into: Mapping[str, Tensor],
) -> None:
    """The same for N weightings: they share the forward pass.

    Args:
        batched: they share the way back too, which is faster where a single one hardly fills the
            machine.
        into: receives them, [N, *parameter] by parameter name.

    Raises:
        RuntimeError: PyTorch cannot batch this architecture's backward pass.
    """
    with RequireGrad(traced), derivatives_once(traced.activations):
        logits = traced.logits(batch.ids_BT[:, :-1], batch.length - 1)
        each_BJV = logit_gradients(widened(logits.detach()), batch.ids_BT[:, 1:])
        weights_NBJ = (weights_NBT.to(logits.device) * batch.labels_BT)[:, :, 1:]
        cotangents_NBJV = (weights_NBJ.to(each_BJV.dtype).unsqueeze(-1) * each_BJV).to(logits.dtype)
        back = partial(
            torch.autograd.grad,
            logits,
            list(traced.parameters.values()),
            retain_graph=True,
            allow_unused=True,
        )
        each: Iterable[Sequence[Tensor | None]] = map(back, cotangents_NBJV)
        if batched:
            together = back(cotangents_NBJV, is_grads_batched=True)
            each = (
                [None if grad is None else grad[place] for grad in together]
                for place in range(len(weights_NBT))
            )
        for place, grads in enumerate(each):
            for name, grad in zip(traced.parameters, grads, strict=True):
                into[name][place] = 0.0 if grad is None else traced.narrowed(name, grad)
