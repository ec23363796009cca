"""What comes after a model's last hidden states, run for a few labels at a time.

So that the logits of a window are never there all at once, and only labels have any.

The gradient of a label's loss by its logits is `p (q - δ_y)`: q the softmax over the other words, p
what they have together. `q - δ_y` has entries of size one however small the loss is. It alone goes
into the backward pass, where streams do not mix, and the label's p is multiplied in at the end: at
a loss of 1e-30 a gradient's direction is as exact as at any other.

Shape letters: N labels at a time, J labels, X width of a hidden state, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from haiftrace.engine.losses import widened
from haiftrace.engine.replaced_forward import replaced_forward

LOGIT_BYTES = 32 << 20
"""Logits that are held at a time behind a model's last hidden states, approximately."""


def losses_and_slopes(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [N] in nats and p [N], both float64, and `q - δ_y` [N, V] of the logits."""
    index = targets_N[:, None]
    logits_NV = widened(logits_NV)
    # Differences first: the sum's own rounding grows with the logits, theirs does not.
    margins = (logits_NV - logits_NV.gather(1, index)).scatter_(1, index, float("-inf"))
    over_N = torch.logsumexp(margins, 1)
    slopes = margins.sub_(over_N[:, None]).exp_().scatter_(1, index, -1.0)
    over_N = over_N.double()
    return F.softplus(over_N, threshold=60.0), torch.sigmoid(over_N), slopes


class Head:
    """The part of a model behind its last hidden states, whatever it does to them.

    Args:
        model: a causal language model in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._output: Any = None

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """[B, T, X] the last hidden states."""
        self._output = self._model.base_model(input_ids=ids_BT, use_cache=False)
        hidden: Tensor = self._output.last_hidden_state
        return hidden

    def logits(self, hidden_NX: Tensor) -> Tensor:
        """[N, V] of some hidden states, of whatever positions."""
        ids_1N = torch.zeros(1, len(hidden_NX), dtype=torch.long, device=hidden_NX.device)
        with self._ready(hidden_NX[None]):
            logits: Tensor = self._model(input_ids=ids_1N, use_cache=False).logits
        return logits[0]

    @contextmanager
    def _ready(self, hidden_1NX: Tensor) -> Iterator[None]:
        """While it lasts, the model below the head has run and given these."""
        given = type(self._output)(**{**self._output, "last_hidden_state": hidden_1NX})
        with replaced_forward({self._model.base_model: lambda *_, **__: given}):
            yield

    def slopes(self, hidden_JX: Tensor, targets_J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [J], p [J], and what `q - δ_y` is by the hidden states [J, X]."""
        words = self._model.get_output_embeddings().weight.shape[0]
        step = max(1, LOGIT_BYTES // (4 * words))
        found = []
        for start in range(0, len(targets_J), step):
            hidden = hidden_JX[start : start + step].detach().requires_grad_(True)
            logits = self.logits(hidden)
            losses, others, slopes = losses_and_slopes(
                logits.detach(), targets_J[start : start + step]
            )
            (by_hidden,) = torch.autograd.grad(logits, hidden, slopes.to(logits.dtype))
            found.append((losses, others, by_hidden))
        if not found:
            nothing = torch.zeros(0, dtype=torch.float64, device=hidden_JX.device)
            return nothing, nothing, torch.zeros_like(hidden_JX)
        losses, others, by_hidden = (torch.cat(part) for part in zip(*found, strict=True))
        return losses, others, by_hidden
