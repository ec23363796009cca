"""One forward and one backward pass: losses and direct gradients of all labels of a batch.

N in shapes: labels at a time, of the J labels of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.direct.activations import recomputed
from haiftrace.engine.direct.attention import AttentionCall, own_stream
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.head import Head, losses_and_logit_grads
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.mixers import held_constant
from haiftrace.engine.direct.support import DirectSupport
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import Whitening

Receiver = Callable[[int, Tensor, LayerFactors], None]
"""(layer, indices [N] of labels, their factors) -> None: consumes the direct gradients."""


class DirectPass(Recorder):
    """The pass, run by the constructor; `receive` gets the factors in the backward pass.

    Every label occurs once in every layer, N labels at a time: from the last layer to the first,
    and in a layer from the first positions to the last. No layer's factors are held together.

    Args:
        model: evaluation mode.
        support: what the pass needs to know of the model.
        whitening: of the value projections' inputs.
        memory: bytes of activations that may be saved for the backward pass, approximately.

    Attributes:
        losses_J: cross-entropy of every label in nats, float64.
        other_prob_J: probability of all tokens but the label, float64.
    """

    def __init__(
        self,
        model: Any,
        support: DirectSupport,
        batch: Batch,
        whitening: Whitening,
        receive: Receiver,
        memory: int,
    ) -> None:
        super().__init__()
        self.mask_BT = batch.labels_BT[:, 1:]
        self.index_BT = (self.mask_BT.flatten().cumsum(0) - 1).view(self.mask_BT.shape)
        self.has_label_T = self.mask_BT.any(0).tolist()
        self.whitening = whitening
        self.receive = receive
        self.inputs: list[Tensor | None] = []
        self._skipped = support.skipped
        parameter = next(iter(model.parameters()))
        self._anchor = torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        self._anchor.requires_grad_(True)

        ids_BT = batch.ids_BT[:, :-1]
        targets_J = batch.ids_BT[:, 1:][self.mask_BT]
        long = support.position_bytes * ids_BT.numel() > memory
        with (
            torch.enable_grad(),
            attention_by(model, self),
            captured_inputs(support.projections, self.inputs),
            held_constant(support.constants),
            recomputed(support.feed_forward if long else ()),
        ):
            if support.separate_head:
                head = Head(model)
                top_BTX = head.hidden(ids_BT)
                self.losses_J, self.other_prob_J, top_grads_JX = head.gradients(
                    top_BTX[self.mask_BT], targets_J
                )
            else:
                top_BTX = model(input_ids=ids_BT, use_cache=False).logits
                self.losses_J, self.other_prob_J, top_grads_JX = losses_and_logit_grads(
                    top_BTX.detach()[self.mask_BT], targets_J
                )
            top_grads_BTX = torch.zeros_like(top_BTX)
            top_grads_BTX[self.mask_BT] = top_grads_JX.to(top_BTX.dtype)
            torch.autograd.grad(top_BTX, self._anchor, top_grads_BTX)

    def attend(self, call: AttentionCall) -> Tensor:
        """[B, H, T, E] the outputs of a layer's heads."""
        layer = len(self.modules) - 1 - self._skipped
        if layer < 0:
            return call.outputs()
        return own_stream(call, self._anchor, _LayerObserver(self, layer, call.groups))


class _LayerObserver:
    """Observes one layer's attention and forms the factors of its labels."""

    def __init__(self, run: DirectPass, layer: int, groups: int) -> None:
        self._run = run
        self._layer = layer
        self._groups = groups
        self._input_BTD: Tensor | None = None

    def is_needed(self, rows: range) -> bool:
        return any(self._run.has_label_T[rows.start : rows.stop])

    def observe(self, rows: range, weights_BHSI: Tensor, output_grads_BHSE: Tensor) -> None:
        run, layer = self._run, self._layer
        if self._input_BTD is None:
            input_BTD = run.inputs[layer]
            assert input_BTD is not None
            self._input_BTD = run.whitening.applied(layer, input_BTD)
            run.inputs[layer] = None
        mask_BS = run.mask_BT[:, rows.start : rows.stop]
        batch, heads, count, positions = weights_BHSI.shape
        shape = batch, self._groups, heads // self._groups, count, -1
        # The query heads of one key-value head and position are adjacent from here on.
        weights = weights_BHSI.view(shape).transpose(2, 3).reshape(batch, -1, positions)
        means = weights.to(self._input_BTD.dtype) @ self._input_BTD[:, :positions]
        means_GXRD = _by_position(means.view(batch, self._groups, count, shape[2], -1))
        output_grads_GXRE = _by_position(output_grads_BHSE.reshape(shape).transpose(2, 3))
        labels_N = run.index_BT[:, rows.start : rows.stop][mask_BS]
        if len(labels_N) < mask_BS.numel():
            chosen = mask_BS.flatten().nonzero()[:, 0]
            means_GXRD, output_grads_GXRE = means_GXRD[:, chosen], output_grads_GXRE[:, chosen]
        factors = LayerFactors.of(output_grads_GXRE, means_GXRD, run.other_prob_J[labels_N])
        run.receive(layer, labels_N, factors)

    def finish(self) -> None:
        self._input_BTD = None


def _by_position(tensor_BGSRX: Tensor) -> Tensor:
    """[G, B·S, R, X]."""
    return tensor_BGSRX.transpose(0, 1).flatten(1, 2)
