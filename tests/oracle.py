"""The slow, obvious oracle: a loop of single backward passes through the whole model, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def token_gradient_matrix(
    model: torch.nn.Module, names: Sequence[str], ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Losses [T-1] and flattened gradients [T-1, parameters] of every token but the first."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    tokens = torch.tensor([list(ids)])
    losses, rows = [], []
    for position in range(1, len(ids)):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits[0, position - 1].double(), tokens[0, position])
        grads = torch.autograd.grad(loss, chosen, allow_unused=True)
        flat = [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(chosen, grads, strict=True)
        ]
        losses.append(loss.detach())
        rows.append(torch.cat(flat).double())
    return torch.stack(losses), torch.stack(rows)


def flatten(gradient: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """A gradient by name as one vector, in the oracle's order."""
    return torch.cat([gradient[name].flatten() for name in names]).double()
