"""Tangents of token losses from those of the output head's input, without the head.

Where the logits are the output of a plain linear head with the input h, and the head is not traced,
the tangent of a token's loss is `(∂l/∂logits W)·ḣ`: a product as wide as the model for each
direction, in place of one as wide as the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.batch import Batch
from haiftrace.engine.losses import logit_gradients, widened
from haiftrace.engine.replaced_forward import replaced_forward
from haiftrace.engine.traced_model import TracedModel


class HeadInput:
    """Context of a forward pass that ends before the head.

    Attributes:
        hidden: [B, T, C] input of the head.
    """

    def __init__(self, head: nn.Module) -> None:
        self._replacement = replaced_forward({head: self._record})
        self.hidden: Tensor

    def _record(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        return hidden[..., :1]  # as of a vocabulary of one token

    def __enter__(self) -> HeadInput:
        self._replacement.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._replacement.__exit__(*error)


def has_plain_head(traced: TracedModel, batch: Batch) -> bool:
    """Whether a model's logits are exactly its head's output, and the head is not traced."""
    head: Any = traced.head
    parameters = [value for value in (head.weight, head.bias) if value is not None]
    if type(head) is not nn.Linear or any(traced.name_of(p) is not None for p in parameters):
        return False
    inputs = {"input_ids": batch.ids_BT, "use_cache": False}
    with torch.no_grad():
        logits = traced.model(**inputs).logits
        with HeadInput(head) as captured:
            traced.model(**inputs)
        return torch.equal(widened(logits), widened(head(captured.hidden)))


def hidden_gradients(traced: TracedModel, logits: Tensor, targets: Tensor) -> Tensor:
    """∂l/∂h [..., C], the gradient of every token's loss by the head's input.

    Args:
        logits: [..., V].
        targets: [...] token ids.
    """
    weight = widened(traced.head.weight.detach())
    return logit_gradients(widened(logits), targets) @ weight


def hidden_loss_tangents(gradients: Tensor, tangents: Tensor) -> Tensor:
    """Directional derivatives [...] of the losses, in float64.

    Args:
        gradients: ∂l/∂h [..., C].
        tangents: ḣ [..., C].
    """
    return (gradients * widened(tangents)).sum(-1, dtype=torch.float64)
