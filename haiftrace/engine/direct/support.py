"""Whether direct gradients can be had of a model in one pass, found by trying it on a few tokens.

The pass is compared with the model's own logits, and with single backward passes, one a label,
through an attention that holds the keys and values of other positions fixed by plain autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.direct.attention import AttentionCall, Recorder, own_streams
from haiftrace.engine.direct.direct_pass import DirectPass
from haiftrace.engine.direct.value_inputs import value_projections
from haiftrace.engine.losses import token_losses
from haiftrace.engine.plain_head import is_plain_head

TRIAL_TOKENS = ((5, 6, 5, 7, 8, 9), (6, 7, 6, 5))


class NoDirectGradients(Exception):
    """A model's direct gradients cannot be had in one pass; says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class DirectSupport:
    """What the pass needs to know of a model.

    Attributes:
        projections: each attention layer's value projection.
        plain_head: whether the pass may end before the output head.
    """

    projections: tuple[nn.Module, ...]
    plain_head: bool


class _PlainRecorder(Recorder):
    """The same attention by autograd alone, all weights at once."""

    def attend(self, module: nn.Module, call: AttentionCall) -> Tensor:
        shared = call.query_BHTC.shape[1] // call.groups
        key, value = (t.repeat_interleave(shared, 1) for t in (call.key_BGTC, call.value_BGTE))
        own = (call.query_BHTC.detach() * (key - key.detach())).sum(-1) * call.scaling
        scores = call.query_BHTC @ key.detach().transpose(-1, -2) * call.scaling
        scores = scores + torch.diag_embed(own)
        if call.softcap is not None:
            scores = torch.tanh(scores / call.softcap) * call.softcap
        if call.mask is None:
            scores = scores + torch.full_like(scores[0, 0], float("-inf")).triu(1)
        else:
            scores = scores + call.mask
        if call.sinks_H is not None:
            sink = call.sinks_H.to(scores.dtype).reshape(1, -1, 1, 1)
            scores = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], -1)
        weights = torch.softmax(scores, -1)[..., : call.key_BGTC.shape[2]]
        output = weights @ value.detach()
        kept = weights.diagonal(dim1=-2, dim2=-1).detach()[..., None]
        output = output + kept * (value - value.detach())
        if not output.requires_grad:
            output.requires_grad_(True)
        self.keep(module, call, output)
        return output


def single_slopes(model: Any, batch: Batch) -> list[Tensor]:
    """∂l_j/∂o [J, B, H, T, E] of every layer, one backward pass a label, nothing shared."""
    recorder = _PlainRecorder()
    with torch.enable_grad(), own_streams(model, recorder):
        logits = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
        mask_BT = batch.labels_BT[:, 1:]
        losses_J = token_losses(logits, batch.ids_BT[:, 1:])[mask_BT]
        each = [torch.autograd.grad(loss, recorder.outputs, retain_graph=True) for loss in losses_J]
    return [torch.stack(of_layer) for of_layer in zip(*each, strict=True)]


def find_direct_support(model: Any) -> DirectSupport:
    """Tries the pass.

    Raises:
        NoDirectGradients: it cannot be had of this model.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = next(iter(model.parameters())).device
    batch = make_batch([[t % vocabulary for t in row] for row in TRIAL_TOKENS], device=device)
    try:
        own = _own_logits(model, batch)
        with torch.no_grad(), own_streams(model, Recorder()):
            ours = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
    except Exception as error:  # an unknown architecture may refuse by any error at all
        raise NoDirectGradients(
            f"its attention cannot be followed ({type(error).__name__})"
        ) from error
    mask_BT = batch.labels_BT[:, 1:]
    if not _close(ours[mask_BT], own[mask_BT], model):
        raise NoDirectGradients("its attention is not what transformers' interface says")
    try:
        projections = tuple(value_projections(model, batch.ids_BT[:, :-1]))
    except Exception as error:
        raise NoDirectGradients(str(error)) from error
    try:
        plain = is_plain_head(model, batch)
    except Exception:
        plain = False
    try:
        single = single_slopes(model, batch)
        run = DirectPass(model, projections, batch, plain)
    except Exception as error:
        raise NoDirectGradients(f"it has no such backward pass ({type(error).__name__})") from error
    _check_streams(single, run.slopes, mask_BT, model)
    return DirectSupport(projections, plain)


def _own_logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
    return logits


def _check_streams(
    single: Sequence[Tensor], together: Sequence[Tensor], mask_BT: Tensor, model: Any
) -> None:
    places = mask_BT.nonzero().tolist()
    for of_layer, ours_JHE in zip(single, together, strict=True):
        own_JHE = torch.stack([of_layer[j, b, :, t] for j, (b, t) in enumerate(places)])
        others = of_layer.clone()
        for j, (b, t) in enumerate(places):
            others[j, b, :, t] = 0
        if float(others.abs().max()) > _tolerance(model) * float(own_JHE.abs().max()):
            raise NoDirectGradients("its layers mix positions outside attention")
        if not _close(ours_JHE, own_JHE, model):
            raise NoDirectGradients("its gradients in one pass are not those of single passes")


def _close(ours: Tensor, reference: Tensor, model: Any) -> bool:
    size = float(reference.abs().max())
    return bool(((ours - reference).abs() <= _tolerance(model) * size).all())


def _tolerance(model: Any) -> float:
    dtype = next(iter(model.parameters())).dtype
    return {torch.float64: 1e-5, torch.float32: 1e-3}.get(dtype, 0.1)
