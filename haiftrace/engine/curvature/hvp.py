"""Hessian-vector and Gauss-Newton-vector products of token losses, without the matrix.

Of a weighted sum of token losses `L = Σ_{b,t} w_bt l_bt`, with z the logits, J their Jacobian over
the traced parameters and p the softmax of z:

- the Gauss-Newton matrix `G = Σ w Jᵀ (diag(p) - p pᵀ) J`, which equals the Fisher information of
  the model's own predictions and is positive semi-definite where w ≥ 0 (Schraudolph 2002);
- the Hessian `H = G + Σ w Σ_k (∂l/∂z_k) ∇²z_k`, which on a trained model is indefinite.

Both products are exact and cost a few passes (Pearlmutter 1994).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.full_gradient import RequireGrad
from haiftrace.engine.jvp import Direction, logits_and_tangents
from haiftrace.engine.losses import token_losses, widened
from haiftrace.engine.traced_model import TracedModel


def gauss_newton_product(
    traced: TracedModel, batch: Batch, weights_BT: Tensor, direction: Direction, forward_mode: bool
) -> dict[str, Tensor]:
    """`G u` by parameter name, in at least float32.

    Args:
        weights_BT: weight of every token's loss; looked at only where a token is a label.
        direction: u, a tensor of its parameter's shape by parameter name.
        forward_mode: `J u` by one forward pass with dual numbers; by two reverse passes if not.

    Raises:
        RuntimeError: `forward_mode`, and the architecture has no forward-mode rule.
    """
    inputs_BJ, weights_BJ = batch.ids_BT[:, :-1], _label_weights(batch, weights_BT)
    tangents_BJV = None
    if forward_mode:
        # Before the graph of the reverse pass is made: the two need not share the memory.
        _, tangents_BJV = logits_and_tangents(traced, inputs_BJ, direction)
    with RequireGrad(traced):
        logits_BJV = traced.logits(inputs_BJ, batch.length - 1)
        if not forward_mode:
            tangents_BJV = _tangents_by_reverse_mode(traced, logits_BJV, direction)
        if tangents_BJV is None:
            return _named(traced, [None] * len(traced.parameters))
        curved_BJV = softmax_curvature(logits_BJV.detach(), tangents_BJV)
        cotangents_BJV = curved_BJV * weights_BJ.unsqueeze(-1).to(curved_BJV.dtype)
        grads = torch.autograd.grad(
            logits_BJV,
            list(traced.parameters.values()),
            grad_outputs=cotangents_BJV.to(logits_BJV.dtype),
            allow_unused=True,
        )
    return _named(traced, grads)


def hessian_product(
    traced: TracedModel, batch: Batch, weights_BT: Tensor, direction: Direction
) -> dict[str, Tensor]:
    """`H u` by parameter name, in at least float32; arguments as of `gauss_newton_product`."""
    inputs_BJ, targets_BJ = batch.ids_BT[:, :-1], batch.ids_BT[:, 1:]
    with RequireGrad(traced):
        losses_BJ = token_losses(traced.logits(inputs_BJ, batch.length - 1), targets_BJ)
        total = (losses_BJ * _label_weights(batch, weights_BT).to(losses_BJ.dtype)).sum()
        parameters = list(traced.parameters.values())
        grads = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
        products = _derivative_along(traced, grads, direction, parameters)
    return _named(traced, products)


def softmax_curvature(logits: Tensor, tangents: Tensor) -> Tensor:
    """`(diag(p) - p pᵀ) ż` of logits and tangents ż [..., V], in at least float32.

    Formed as `p ⊙ (ż - Σ p ż)`, and ż relative to that of the likeliest token: as p nears one-hot,
    where memorised text is, the result is a difference of nearly equal numbers otherwise.
    """
    logits, tangents = widened(logits), widened(tangents)
    tangents = tangents - tangents.gather(-1, logits.argmax(-1, keepdim=True))
    probabilities = torch.softmax(logits, -1)
    mean = (probabilities * tangents).sum(-1, keepdim=True)
    return probabilities * (tangents - mean)


def _tangents_by_reverse_mode(
    traced: TracedModel, logits_BJV: Tensor, direction: Direction
) -> Tensor | None:
    """`J u` as the derivative of `u·(Jᵀc)`, which is linear in c, with respect to c."""
    cotangents_BJV = torch.zeros_like(logits_BJV, requires_grad=True)
    grads = torch.autograd.grad(
        logits_BJV,
        list(traced.parameters.values()),
        grad_outputs=cotangents_BJV,
        create_graph=True,
        allow_unused=True,
    )
    return _derivative_along(traced, grads, direction, [cotangents_BJV])[0]


def _derivative_along(
    traced: TracedModel,
    grads: Sequence[Tensor | None],
    direction: Direction,
    variables: Sequence[Tensor],
) -> Sequence[Tensor | None]:
    """Derivatives of `Σ g·u` with respect to variables, of which the gradients g are functions."""
    pairs = [
        (grad, traced.widened(name, direction[name]).to(grad.dtype))
        for name, grad in zip(traced.parameters, grads, strict=True)
        if grad is not None and grad.requires_grad
    ]
    if not pairs:
        return [None] * len(variables)
    outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(
        outputs, variables, grad_outputs=cotangents, retain_graph=True, allow_unused=True
    )


def _label_weights(batch: Batch, weights_BT: Tensor) -> Tensor:
    """Weights [B, J] of the labels of every position but the first."""
    return (weights_BT.to(batch.labels_BT.device) * batch.labels_BT)[:, 1:]


def _named(traced: TracedModel, grads: Sequence[Tensor | None]) -> dict[str, Tensor]:
    return {
        name: traced.zeros(name) if grad is None else widened(traced.narrowed(name, grad))
        for name, grad in zip(traced.parameters, grads, strict=True)
    }
