"""Per-token cross-entropy whose value and gradient stay exact at the tiny losses of memorised text.

With z the logits and y the label, `l = softplus(logsumexp_{k≠y} (z_k - z_y))`, and the label's own
logit gradient is minus the sum of the others. The textbook forms `logsumexp(z) - z_y` and `p_y - 1`
lose all their digits in float32 once the loss is near 1e-6, where most memorised tokens are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from haiftrace.engine.batch import Batch


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> Tensor:
        index = targets.unsqueeze(-1)
        # Differences first: the sum's own rounding grows with the logits, theirs does not.
        margins = (logits - logits.gather(-1, index)).scatter_(-1, index, float("-inf"))
        return F.softplus(torch.logsumexp(margins, -1), threshold=60.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        return logit_gradients(logits, targets) * grads[0].unsqueeze(-1), None


def logit_gradients(logits: Tensor, targets: Tensor) -> Tensor:
    """∂loss/∂logits [..., V] of each token's own loss; entries of a row sum to zero exactly enough.

    Args:
        logits: [..., V] in float32 or float64.
        targets: [...] token ids.
    """
    index = targets.unsqueeze(-1)
    others = torch.softmax(logits, -1).scatter(-1, index, 0.0)
    return others.scatter(-1, index, -others.sum(-1, keepdim=True))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of every token, [...], of logits [..., V] and targets [...].

    Half precision logits are taken to float32 first.
    """
    return _TokenLoss.apply(widened(logits), targets)


def loss_tangents(logits: Tensor, tangents: Tensor, targets: Tensor) -> Tensor:
    """Directional derivative of every token's loss, `Σ_{k≠y} p_k (ż_k - ż_y)`, in float64.

    Args:
        logits, tangents: [..., V].
        targets: [...] token ids.
    """
    index = targets.unsqueeze(-1)
    others = torch.softmax(widened(logits), -1).scatter(-1, index, 0.0)
    tangents = widened(tangents)
    return (others * (tangents - tangents.gather(-1, index))).sum(-1, dtype=torch.float64)


def batch_losses(model: Any, batch: Batch) -> Tensor:
    """Cross-entropy of every label of a batch in nats, [B, T] in float64, zero elsewhere."""
    with torch.no_grad():
        logits = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
        losses = token_losses(logits, batch.ids_BT[:, 1:]).double()
    return F.pad(losses, (1, 0)) * batch.labels_BT


def widened(tensor: Tensor) -> Tensor:
    """The tensor in at least float32: what sums and norms are formed from."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
