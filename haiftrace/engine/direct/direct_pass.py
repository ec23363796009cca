"""One forward and one backward pass: losses and direct gradients of all labels of a batch.

Shape letters: B records, T positions, J labels of the whole batch (record by record, in order), N
of them at a time, H query heads, G key-value heads of R query heads each, E width of a head's
value, D width of a value projection's input, S rows, I positions that they see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from haiftrace.engine.batch import Batch
from haiftrace.engine.direct.activations import formed_anew
from haiftrace.engine.direct.attention import AttentionCall, own_stream
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.head import Head, losses_and_slopes
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.mixers import held_constant
from haiftrace.engine.direct.support import DirectSupport
from haiftrace.engine.direct.value_inputs import captured_inputs
from haiftrace.engine.direct.whitening import Whitening

Receiver = Callable[[int, Tensor, LayerFactors], None]
"""(layer, which labels [N], their factors): what is done with the direct gradients."""


class DirectPass(Recorder):
    """The pass, done when it is made; `receive` sees the factors in the backward pass.

    Every label comes once in every layer, some labels at a time: from the last layer to the first,
    and in a layer from the first positions to the last. No layer's factors are held together.

    Args:
        model: evaluation mode.
        support: how its pass is done.
        whitening: of the value projections' inputs.
        memory: bytes that may be kept of the way forward for the way back, approximately.

    Attributes:
        losses_J: cross-entropy of every label in nats, float64.
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
        self.place_BT = (self.mask_BT.flatten().cumsum(0) - 1).view(self.mask_BT.shape)
        self.wanted_T = self.mask_BT.any(0).tolist()
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
            formed_anew(support.feed_forward if long else ()),
        ):
            if support.separate_head:
                head = Head(model)
                top_BTX = head.hidden(ids_BT)
                self.losses_J, self.others_J, slopes_JX = head.slopes(
                    top_BTX[self.mask_BT], targets_J
                )
            else:
                top_BTX = model(input_ids=ids_BT, use_cache=False).logits
                self.losses_J, self.others_J, slopes_JX = losses_and_slopes(
                    top_BTX.detach()[self.mask_BT], targets_J
                )
            slopes_BTX = torch.zeros_like(top_BTX)
            slopes_BTX[self.mask_BT] = slopes_JX.to(top_BTX.dtype)
            torch.autograd.grad(top_BTX, self._anchor, slopes_BTX)

    def attend(self, call: AttentionCall) -> Tensor:
        """[B, H, T, E] the outputs of a layer's heads."""
        layer = len(self.modules) - 1 - self._skipped
        if layer < 0:
            return call.outputs()
        return own_stream(call, self._anchor, _Layer(self, layer, call.groups))


class _Layer:
    """Watches one layer and forms the factors of its labels."""

    def __init__(self, run: DirectPass, layer: int, groups: int) -> None:
        self._run = run
        self._layer = layer
        self._groups = groups
        self._input_BTD: Tensor | None = None

    def wants(self, rows: range) -> bool:
        return any(self._run.wanted_T[rows.start : rows.stop])

    def see(self, rows: range, weights_BHSI: Tensor, slopes_BHSE: Tensor) -> None:
        run, layer = self._run, self._layer
        if self._input_BTD is None:
            given = run.inputs[layer]
            assert given is not None
            self._input_BTD = run.whitening.applied(layer, given)
            run.inputs[layer] = None
        mask_BS = run.mask_BT[:, rows.start : rows.stop]
        batch, heads, count, seen = weights_BHSI.shape
        shape = batch, self._groups, heads // self._groups, count, -1
        # The query heads of one key-value head and position stand together from here on.
        weights = weights_BHSI.view(shape).transpose(2, 3).reshape(batch, -1, seen)
        means = weights.to(self._input_BTD.dtype) @ self._input_BTD[:, :seen]
        means_GPRD = _by_position(means.view(batch, self._groups, count, shape[2], -1))
        slopes_GPRE = _by_position(slopes_BHSE.reshape(shape).transpose(2, 3))
        labels_N = run.place_BT[:, rows.start : rows.stop][mask_BS]
        if len(labels_N) < mask_BS.numel():
            chosen = mask_BS.flatten().nonzero()[:, 0]
            means_GPRD, slopes_GPRE = means_GPRD[:, chosen], slopes_GPRE[:, chosen]
        factors = LayerFactors.of(slopes_GPRE, means_GPRD, run.others_J[labels_N])
        run.receive(layer, labels_N, factors)

    def done(self) -> None:
        self._input_BTD = None


def _by_position(tensor_BGSRX: Tensor) -> Tensor:
    """[G, B·S, R, X]."""
    return tensor_BGSRX.transpose(0, 1).flatten(1, 2)
