"""One forward and one backward pass: losses and direct gradients of all labels of a batch.

Shape letters: B records, T positions, J labels of the whole batch (record by record, in order), H
heads, E width of a head's value, D width of a value projection's input, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.batch import Batch
from haiftrace.engine.direct.attention import AttentionCall, Recorder, own_streams
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import Whitening
from haiftrace.engine.losses import logit_gradients, token_losses, widened
from haiftrace.engine.plain_head import HeadInput

LOGIT_BYTES = 64 << 20
"""Logits that are held at a time behind a plain output head, approximately."""


class DirectPass:
    """The pass itself, done when it is made; factors are formed a layer at a time.

    Args:
        model: evaluation mode.
        projections: each layer's value projection.
        plain_head: the logits are exactly a linear head's output (see `plain_head`).

    Attributes:
        losses_J: cross-entropy of every label in nats, float64.
        row_J: the record of each label.
        slopes: e [J, H, E] of each layer.
    """

    def __init__(
        self, model: Any, projections: Sequence[nn.Module], batch: Batch, plain_head: bool
    ) -> None:
        self._mask_BT = batch.labels_BT[:, 1:]
        self.row_J = self._mask_BT.nonzero()[:, 0]
        targets_J = batch.ids_BT[:, 1:][self._mask_BT]
        recorder = Recorder()
        ids_BT = batch.ids_BT[:, :-1]
        with torch.enable_grad(), own_streams(model, recorder), captured_inputs(projections) as at:
            if plain_head:
                head = model.get_output_embeddings()
                with HeadInput(head) as ends:
                    model(input_ids=ids_BT, use_cache=False)
                top_BTX = ends.hidden
                losses_J, slopes_JX = _past_head(head, top_BTX.detach()[self._mask_BT], targets_J)
                slopes_BTX = torch.zeros_like(top_BTX)
                slopes_BTX[self._mask_BT] = slopes_JX.to(top_BTX.dtype)
            else:
                top_BTX = model(input_ids=ids_BT, use_cache=False).logits
                logits_JV = widened(top_BTX.detach()[self._mask_BT])
                losses_J = token_losses(logits_JV, targets_J)
                slopes_BTX = torch.zeros_like(top_BTX)
                slopes_BTX[self._mask_BT] = logit_gradients(logits_JV, targets_J).to(top_BTX.dtype)
            slopes = torch.autograd.grad(top_BTX, recorder.outputs, slopes_BTX)
        self.losses_J = losses_J.double()
        self._inputs: list[Tensor] = at
        self._calls = recorder.calls
        self.slopes = [slope.transpose(1, 2)[self._mask_BT] for slope in slopes]

    def layers(self, whitening: Whitening) -> Iterator[LayerFactors]:
        """The factors of each layer in turn, from the first on."""
        for layer, (call, slopes_JHE) in enumerate(zip(self._calls, self.slopes, strict=True)):
            input_BTD = whitening.applied(layer, self._inputs[layer])
            input_JHD = _attended(call, input_BTD, self._mask_BT)
            yield LayerFactors.of(slopes_JHE, input_JHD, call.groups)


def _past_head(head: Any, hidden_JX: Tensor, targets_J: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [J] and ∂l/∂h [J, X] of labels whose logits are a linear head's output of h."""
    weight_VX = head.weight.detach()
    step = max(1, LOGIT_BYTES // (4 * weight_VX.shape[0]))
    losses, slopes = [], []
    for start in range(0, max(1, len(targets_J)), step):
        targets = targets_J[start : start + step]
        with torch.no_grad():
            logits = widened(head(hidden_JX[start : start + step]))
            losses.append(token_losses(logits, targets))
            slopes.append(logit_gradients(logits, targets).to(weight_VX.dtype) @ weight_VX)
    return torch.cat(losses), torch.cat(slopes)


def _attended(call: AttentionCall, input_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """[J, H, D] what each head averages of the inputs at the positions that predict labels."""
    first = int(mask_BT.any(0).nonzero()[0]) if mask_BT.any() else mask_BT.shape[1]
    last = mask_BT.shape[1]
    parts, places = [], []
    for rows in call.row_ranges(first, wide=input_BTD.shape[-1]):
        mask_BS = mask_BT[:, rows.start : min(rows.stop, last)]
        if mask_BS.any():
            means_BHSD = call.averaged(rows, input_BTD)
            parts.append(means_BHSD.transpose(1, 2)[mask_BS])
            places.append(mask_BS.nonzero() + torch.tensor([0, rows.start], device=mask_BT.device))
    if not parts:
        return input_BTD.new_zeros(0, call.query_BHTC.shape[1], input_BTD.shape[-1])
    # Ranges of rows come one after the other, the labels record by record.
    at = torch.cat(places)
    order = torch.argsort(at[:, 0] * last + at[:, 1])
    return torch.cat(parts)[order]
