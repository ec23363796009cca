"""Whether a model has direct gradients in one pass, by a trial on a few tokens.

The pass is compared with the model's own logits; its output gradients with single backward passes,
one a label, through an attention that holds the keys and values of other positions fixed by plain
autograd; and its factors with autograd's gradients of the value projections themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.direct.activations import SavedTensorBytes
from haiftrace.engine.direct.attention import AttentionCall
from haiftrace.engine.direct.direct_pass import DirectPass
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.engine.direct.head import Head
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.mixers import MixerSearch, branches, held_constant
from haiftrace.engine.direct.support import DirectSupport, NoDirectGradients
from haiftrace.engine.direct.value_inputs import value_projections
from haiftrace.engine.direct.whitening import Whitening
from haiftrace.engine.losses import token_losses

TRIAL_TOKENS = ((5, 6, 5, 7, 8, 9, 6), (6, 7, 6, 5))
EXPLICIT_LABELS = (1, 4, 7)
"""Labels of the trial whose gradient by each value projection is formed."""


class _PlainRecorder(Recorder):
    """The same attention by autograd alone, all attention weights at once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[AttentionCall] = []
        self.weights: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def attend(self, call: AttentionCall) -> Tensor:
        query, mask = call.query_BHTC, call.mask
        shared = query.shape[1] // call.groups
        key, value = (t.repeat_interleave(shared, 1) for t in (call.key_BGTC, call.value_BGTE))
        own_score = (query.detach() * (key - key.detach())).sum(-1) * call.scaling
        scores = query @ key.detach().transpose(-1, -2) * call.scaling
        scores = scores + torch.diag_embed(own_score)
        if call.softcap is not None:
            scores = torch.tanh(scores / call.softcap) * call.softcap
        if mask is None:
            mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if mask.dtype is torch.bool:
            mask = torch.zeros_like(scores).masked_fill(~mask, float("-inf"))
        scores = scores + mask
        if call.sinks_H is not None:
            sink = call.sinks_H.to(scores.dtype).reshape(1, -1, 1, 1)
            scores = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], -1)
        weights = torch.softmax(scores, -1)[..., : query.shape[2]]
        own_weight = weights.diagonal(dim1=-2, dim2=-1).detach()[..., None]
        output = weights @ value.detach() + own_weight * (value - value.detach())
        if not output.requires_grad:
            output.requires_grad_(True)  # the lowest layer's
        self.calls.append(call)
        self.weights.append(weights.detach())
        self.outputs.append(output)
        return output


@dataclass(frozen=True, eq=False)
class _SingleLabelPasses:
    """Losses and gradients by single backward passes, one a label.

    Attributes:
        losses_J: of the labels.
        output_grads: ∂l_j/∂o [J, B, H, T, E] of each layer.
        weight_grads: of each layer, by the value projection's weight, flattened [N, X], of
            `EXPLICIT_LABELS`.
    """

    losses_J: Tensor
    output_grads: list[Tensor]
    weight_grads: list[Tensor]


class _Closeness:
    """Whether tensors agree, relative to the largest entry and by the precision of a model."""

    def __init__(self, model: Any) -> None:
        dtype = next(iter(model.parameters())).dtype
        self.tolerance = {torch.float64: 1e-5, torch.float32: 1e-3}.get(dtype, 0.1)

    def __call__(self, ours: Tensor, reference: Tensor) -> bool:
        size = float(reference.abs().max())
        return bool(((ours - reference).abs() <= self.tolerance * size).all())


def find_direct_support(model: Any) -> DirectSupport:
    """Tries the pass on a model.

    Raises:
        NoDirectGradients: the model has none, or its numbers are wrong.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = next(iter(model.parameters())).device
    batch = make_batch([[t % vocabulary for t in row] for row in TRIAL_TOKENS], device=device)
    mask_BT = batch.labels_BT[:, 1:]
    own_JV = _logits(model, batch)[mask_BT]
    recorder = Recorder()
    try:
        with attention_by(model, recorder):
            logits_JV = _logits(model, batch)[mask_BT]
    except Exception as error:  # an unknown architecture may refuse by any error at all
        reason = f"its attention cannot be followed ({type(error).__name__})"
        raise NoDirectGradients(reason) from error
    if not recorder.modules:
        raise NoDirectGradients("no layer has attention that transformers' interface reaches")
    is_close = _Closeness(model)
    if not is_close(logits_JV, own_JV):
        raise NoDirectGradients("its attention is not what transformers' interface says")
    try:
        projections = tuple(value_projections(model, batch.ids_BT[:, :-1]))
    except Exception as error:
        raise NoDirectGradients(str(error)) from error
    try:
        constants = _mixers(model, batch)
        separate_head = _has_separate_head(model, batch, own_JV, is_close)
        support = DirectSupport(projections, constants, separate_head)
        single_passes = _single_label_passes(model, batch, support)
        with SavedTensorBytes(model) as saved:
            losses_J, factors = _by_direct_pass(model, batch, support)
    except NoDirectGradients:
        raise
    except Exception as error:
        reason = f"it has no such backward pass ({type(error).__name__})"
        raise NoDirectGradients(reason) from error
    _compare(single_passes, losses_J, factors, mask_BT, is_close)
    return replace(
        support,
        feed_forward=_feed_forward(model, {*recorder.modules, *constants}),
        position_bytes=saved.count // mask_BT.numel(),
        input_width=max(layer.input_GJRD.shape[-1] for layer in factors),
    )


def _logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
    return logits


def _mixers(model: Any, batch: Batch) -> tuple[nn.Module, ...]:
    recorder = _PlainRecorder()
    with torch.enable_grad(), attention_by(model, recorder), MixerSearch(model) as search:
        model(input_ids=batch.ids_BT[:, :-1], use_cache=False)
    for mixer in search.mixers:
        if not set(recorder.modules).isdisjoint(mixer.modules()):
            raise NoDirectGradients("its attention layers mix positions outside attention")
    return tuple(search.mixers)


def _feed_forward(model: Any, others: set[nn.Module]) -> tuple[nn.Module, ...]:
    """Branches that have a matrix and contain none of the other modules."""
    return tuple(
        branch
        for branch in branches(model)
        if others.isdisjoint(branch.modules()) and any(p.ndim > 1 for p in branch.parameters())
    )


def _has_separate_head(model: Any, batch: Batch, own_JV: Tensor, is_close: _Closeness) -> bool:
    """Whether the labels' hidden states alone, in any order, give their logits."""
    try:
        with torch.no_grad():
            head = Head(model)
            hidden_JX = head.hidden(batch.ids_BT[:, :-1])[batch.labels_BT[:, 1:]]
            return is_close(head.logits(hidden_JX.flip(0)).flip(0), own_JV)
    except Exception:
        return False


def _single_label_passes(model: Any, batch: Batch, support: DirectSupport) -> _SingleLabelPasses:
    """One backward pass a label, nothing shared."""
    recorder = _PlainRecorder()
    mask_BT = batch.labels_BT[:, 1:]
    positions = mask_BT.nonzero().tolist()
    with torch.enable_grad(), attention_by(model, recorder), held_constant(support.constants):
        weights: list[Any] = [projection.weight for projection in support.projections]
        try:
            for weight in weights:
                weight.requires_grad_(True)
            logits = model(input_ids=batch.ids_BT[:, :-1], use_cache=False).logits
            losses_J = token_losses(logits, batch.ids_BT[:, 1:])[mask_BT]
            by_label = [
                torch.autograd.grad(loss, recorder.outputs, retain_graph=True) for loss in losses_J
            ]
            weight_grads = []
            for layer, weight in enumerate(weights):
                call, attention = recorder.calls[layer], recorder.weights[layer]
                value = call.value_BGTE.repeat_interleave(attention.shape[1] // call.groups, 1)
                layer_grads = []
                for label in EXPLICIT_LABELS:
                    record, position = positions[label]
                    output_grad_HE = by_label[label][layer][record, :, position]
                    output_HE = torch.einsum(
                        "hi,hie->he", attention[record, :, position], value[record]
                    )
                    product = (output_grad_HE * output_HE).sum()
                    layer_grads.append(torch.autograd.grad(product, weight, retain_graph=True)[0])
                weight_grads.append(torch.stack(layer_grads).flatten(1))
        finally:
            for weight in weights:
                weight.requires_grad_(False)
    output_grads = [torch.stack(layer_grads) for layer_grads in zip(*by_label, strict=True)]
    return _SingleLabelPasses(losses_J.detach(), output_grads, weight_grads)


def _by_direct_pass(
    model: Any, batch: Batch, support: DirectSupport
) -> tuple[Tensor, list[LayerFactors]]:
    layers = len(support.projections)
    chunks: list[list[LayerFactors]] = [[] for _ in range(layers)]
    order: list[list[Tensor]] = [[] for _ in range(layers)]

    def receive(layer: int, labels_N: Tensor, factors: LayerFactors) -> None:
        chunks[layer].append(factors)
        order[layer].append(labels_N)

    run = DirectPass(model, support, batch, Whitening.none(layers), receive, 0)
    return run.losses_J, [
        LayerFactors.joined(factors).select(torch.argsort(torch.cat(labels)))
        for factors, labels in zip(chunks, order, strict=True)
    ]


def _compare(
    single_passes: _SingleLabelPasses,
    losses_J: Tensor,
    layers: Sequence[LayerFactors],
    mask_BT: Tensor,
    is_close: _Closeness,
) -> None:
    if not is_close(losses_J, single_passes.losses_J):
        raise NoDirectGradients("its losses in one pass are not those of single passes")
    positions = mask_BT.nonzero().tolist()
    for output_grads, weight_grads, factors in zip(
        single_passes.output_grads, single_passes.weight_grads, layers, strict=True
    ):
        own_JHE = torch.stack([output_grads[j, b, :, t] for j, (b, t) in enumerate(positions)])
        others = output_grads.clone()
        for j, (b, t) in enumerate(positions):
            others[j, b, :, t] = 0
        if float(others.abs().max()) > is_close.tolerance * float(own_JHE.abs().max()):
            raise NoDirectGradients("its layers mix positions outside attention")
        units_JHE = factors.output_grad_GJRE.transpose(0, 1).flatten(1, 2)
        if not is_close(units_JHE * factors.norm_J[:, None, None], own_JHE):
            raise NoDirectGradients("its gradients in one pass are not those of single passes")
        explicit = factors.select(list(EXPLICIT_LABELS))
        norms = torch.outer(explicit.norm_J, explicit.norm_J)
        rows = weight_grads.double()
        if not is_close(explicit.cosines(explicit) * norms, rows @ rows.T):
            raise NoDirectGradients("its values are not what one linear map gives")
