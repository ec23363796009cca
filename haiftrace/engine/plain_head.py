"""An output head that several tangents need not pass through.

Where the logits are what a plain linear head makes of its input h, and the head is not traced, the
tangent of a token's loss is `(∂l/∂logits W)·ḣ`: a product as wide as the model for each direction,
in place of one as wide as the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.batch import Batch
from haiftrace.engine.batched_pass import Traced
from haiftrace.engine.losses import logit_gradients, widened
from haiftrace.engine.replaced_forward import replaced_forward


class HeadInput:
    """Context of a forward pass that ends before the head; `hidden` is what would go into it."""

    def __init__(self, head: nn.Module) -> None:
        self._kept = replaced_forward({head: self._keep})
        self.hidden: Tensor

    def _keep(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        return hidden[..., :1]  # as if of one word

    def __enter__(self) -> HeadInput:
        self._kept.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._kept.__exit__(*error)


def has_plain_head(traced: Traced, batch: Batch) -> bool:
    """Whether a model's logits are exactly its head's output, and the head's own do not count."""
    head: Any = traced.head
    own = [value for value in (head.weight, head.bias) if value is not None]
    if type(head) is not nn.Linear or any(traced.name_of(value) is not None for value in own):
        return False
    told = {"input_ids": batch.ids_BT, "use_cache": False}
    with torch.no_grad():
        logits = traced.model(**told).logits
        with HeadInput(head) as ends:
            traced.model(**told)
        return torch.equal(widened(logits), widened(head(ends.hidden)))


def loss_slopes(traced: Traced, logits: Tensor, targets: Tensor) -> Tensor:
    """∂l/∂h [..., C] of every token's loss by the head's input.

    Args:
        logits: [..., V].
        targets: [...] token ids.
    """
    weight = widened(traced.head.weight.detach())
    return logit_gradients(widened(logits), targets) @ weight


def slope_tangents(slopes: Tensor, tangents: Tensor) -> Tensor:
    """The losses' directional derivatives [...] in float64, of tangents [..., C] of h."""
    return (slopes * widened(tangents)).sum(-1, dtype=torch.float64)
