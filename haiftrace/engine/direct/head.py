"""The output head of a model, with all that follows its last hidden states, for N labels at a time.

So the logits of a window are never held all at once, and are formed for labels only.

The gradient of a label's loss by its logits is `p (q - δ_y)`: q the softmax over the other tokens,
p their probability together. `q - δ_y` has entries of size one however small the loss is. It alone
goes into the backward pass, where streams do not mix, and the label's p is multiplied in at the
end: at a loss of 1e-30 a gradient's direction is as exact as at any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from haiftrace.engine.direct.wide_linear import sliced_forward
from haiftrace.engine.losses import widened
from haiftrace.engine.replaced_forward import replaced_forward

LOGIT_BYTES = 32 << 20
"""Bytes of logits that are held at a time, approximately."""


def losses_and_logit_grads(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [N] in nats and p [N], both float64, and the scaled logit gradients `q - δ_y` [N, V].

    Args:
        logits_NV: in float32 or float64, or half precision, which is taken to float32.
        targets_N: token ids.
    """
    index = targets_N[:, None]
    logits_NV = widened(logits_NV)
    # Differences first: the sum's own rounding grows with the logits, theirs does not.
    margins = (logits_NV - logits_NV.gather(1, index)).scatter_(1, index, float("-inf"))
    log_odds_N = torch.logsumexp(margins, 1)
    grads = margins.sub_(log_odds_N[:, None]).exp_().scatter_(1, index, -1.0)
    log_odds_N = log_odds_N.double()
    return F.softplus(log_odds_N, threshold=60.0), torch.sigmoid(log_odds_N), grads


class Head:
    """All that a model computes from its last hidden states.

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
        """[N, V] of the hidden states of any positions."""
        ids_1N = torch.zeros(1, len(hidden_NX), dtype=torch.long, device=hidden_NX.device)
        with self._with_hidden(hidden_NX[None]):
            logits: Tensor = self._model(input_ids=ids_1N, use_cache=False).logits
        return logits.squeeze(0)  # whose backward pass copies nothing, unlike an index's

    @contextmanager
    def _with_hidden(self, hidden_1NX: Tensor) -> Iterator[None]:
        """While it lasts, the model below the head returns these hidden states."""
        output = type(self._output)(**{**self._output, "last_hidden_state": hidden_1NX})
        forwards = {self._model.base_model: lambda *_, **__: output}
        head = self._model.get_output_embeddings()
        sliced = sliced_forward(head)
        if sliced is not None:
            forwards[head] = sliced
        with replaced_forward(forwards):
            yield

    def gradients(self, hidden_JX: Tensor, targets_J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [J], p [J], and the gradients by the hidden states [J, X] over p.

        Args:
            hidden_JX: last hidden states of the positions that predict labels.
            targets_J: token ids.
        """
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        most = max(1, LOGIT_BYTES // (4 * vocabulary))
        # Chunks of like size: a last one of few labels would read all weights for these alone.
        count = max(1, math.ceil(len(targets_J) / most))
        step = max(1, math.ceil(len(targets_J) / count))
        chunks = []
        for start in range(0, len(targets_J), step):
            hidden = hidden_JX[start : start + step].detach().requires_grad_(True)
            logits = self.logits(hidden)
            losses, other_prob, logit_grads = losses_and_logit_grads(
                logits.detach(), targets_J[start : start + step]
            )
            (hidden_grads,) = torch.autograd.grad(logits, hidden, logit_grads.to(logits.dtype))
            chunks.append((losses, other_prob, hidden_grads))
        if not chunks:
            empty = torch.zeros(0, dtype=torch.float64, device=hidden_JX.device)
            return empty, empty, torch.zeros_like(hidden_JX)
        losses, other_prob, hidden_grads = (torch.cat(rows) for rows in zip(*chunks, strict=True))
        return losses, other_prob, hidden_grads
