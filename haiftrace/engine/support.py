"""Which fast paths an architecture allows, by a trial of each on the model and its numbers.

Every model is tried once, on a few tokens: a fast path is taken only where it ran and agreed with
plain backward passes on this model. Where it did not, the slower exact path is taken, and a note
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haiftrace.engine.accumulators import ReductionSpec
from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.batched_pass import BatchedPass, ReducedGradients
from haiftrace.engine.full_gradient import gradient_of
from haiftrace.engine.jvp import forward_mode, stacked_forward_mode
from haiftrace.engine.looped_pass import LoopPass
from haiftrace.engine.losses import widened
from haiftrace.engine.plain_head import has_plain_head
from haiftrace.engine.traced_model import TracedModel

SLOW_NORMS = (
    "this architecture's backward pass cannot be batched: token norms are taken by one backward"
    " pass a token (exact, several times slower)"
)
SLOW_SCORES = (
    "this architecture has no forward-mode derivative: records are scored by backward passes"
    " (exact, slower)"
)
TRIAL_TOKENS = ((5, 6, 5, 7, 8), (6, 7, 6, 5))


@dataclass(frozen=True)
class Support:
    """The fast paths that the engine may take with a model.

    Attributes:
        batched: batched activation cotangents work and agree with single backward passes.
        forward_mode: forward-mode directional derivatives work and agree.
        single_record: some parameter's gradient is resolved by record only one record at a time.
        shared: parameters that occur in more than one call of a pass (see `Capture`).
        notes: for the user.
        stacked: several directions may share a forward-mode pass.
        plain_head: the pass of several directions may end before the output head.
    """

    batched: bool
    forward_mode: bool
    single_record: bool = False
    shared: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    stacked: bool = False
    plain_head: bool = False


def find_support(traced: TracedModel) -> Support:
    """Tries the fast paths on a few tokens and compares them with single backward passes."""
    support = Support(batched=False, forward_mode=False, single_record=True)
    vocabulary = traced.model.get_input_embeddings().weight.shape[0]
    device = next(iter(traced.parameters.values())).device
    batch = make_batch([[t % vocabulary for t in row] for row in TRIAL_TOKENS], device=device)
    single = batch.row(0)
    direction = _balanced_direction(traced, single)
    # An unknown architecture may refuse by any error at all.
    for trial, single_record in ((batch, False), (single, True)):
        try:
            shared = _shared_parameters(traced, trial)
            candidate = replace(traced, shared=shared)
            if _batched_agrees(candidate, trial, direction):
                support = Support(True, False, single_record, shared)
                break
        except Exception:
            continue
    try:
        works = _forward_mode_agrees(traced, single, direction)
    except Exception:
        works = False
    stacked, plain_head = _stacked(traced, single, direction) if works else (False, False)
    notes = (() if support.batched else (SLOW_NORMS,)) + (() if works else (SLOW_SCORES,))
    return replace(support, forward_mode=works, notes=notes, stacked=stacked, plain_head=plain_head)


def _shared_parameters(traced: TracedModel, batch: Batch) -> frozenset[str]:
    """Parameters that occur in more than one call, by a pass that counts the calls."""
    run = BatchedPass(traced, batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], ReductionSpec())
    return frozenset(name for name, count in run.call_counts.items() if count > 1)


def _weights(batch: Batch) -> Tensor:
    """Weights [1, B, J] of the trial's labels, no two alike: a label out of place shows."""
    order = torch.arange(1, batch.length, dtype=torch.float64, device=batch.ids_BT.device)
    return (order * batch.labels_BT[:, 1:]).unsqueeze(0)


def _balanced_direction(traced: TracedModel, batch: Batch) -> dict[str, Tensor]:
    """A direction along which the trial's gradients by each parameter count the same.

    A parameter whose gradient is lost or wrong then shows, however small its gradient is beside the
    others'; below the tolerance times the norm over all parameters it counts less, as it may be
    nothing but noise.
    """
    weights_BT = torch.nn.functional.pad(_weights(batch)[0], (1, 0))
    direction = gradient_of(traced, batch, weights_BT)
    norms = {name: float(grad.double().norm()) for name, grad in direction.items()}
    least = _tolerance(traced) * sum(norm**2 for norm in norms.values()) ** 0.5
    for name, grad in direction.items():
        grad.div_(max(norms[name], least) or 1.0).div_(norms[name] or 1.0)
    return direction


def _batched_agrees(traced: TracedModel, batch: Batch, direction: Mapping[str, Tensor]) -> bool:
    fast, slow = (_reduced(make, traced, batch, direction) for make in (BatchedPass, LoopPass))
    return _close(fast.norm_NB, slow.norm_NB, float(slow.norm_NB.max()), traced) and _close(
        _dots(fast), _dots(slow), len(direction), traced
    )


def _forward_mode_agrees(
    traced: TracedModel, batch: Batch, direction: Mapping[str, Tensor]
) -> bool:
    _, dots_QBT = forward_mode(traced, batch, [direction])
    dots = (dots_QBT[:, :, 1:] * _weights(batch)).sum(-1)
    expected = _dots(_reduced(LoopPass, traced, batch, direction))
    return _close(dots, expected, len(direction), traced)


def _stacked(
    traced: TracedModel, batch: Batch, direction: Mapping[str, Tensor]
) -> tuple[bool, bool]:
    """Whether directions may share a pass, and whether it may end before the head."""
    try:
        plain = has_plain_head(traced, batch)
    except Exception:
        plain = False
    if plain and _stacked_agrees(replace(traced, plain_head=True), batch, direction):
        return True, True
    return _stacked_agrees(traced, batch, direction), False


def _stacked_agrees(traced: TracedModel, batch: Batch, direction: Mapping[str, Tensor]) -> bool:
    pair = [{name: value * weight for name, value in direction.items()} for weight in (1.0, -0.5)]
    try:
        _, dots_QBT = stacked_forward_mode(traced, batch, pair)
    except Exception:
        return False
    _, expected_QBT = forward_mode(traced, batch, pair)
    return _close(dots_QBT, expected_QBT, float(expected_QBT.abs().max()), traced)


def _reduced(
    make: type[BatchedPass] | type[LoopPass],
    traced: TracedModel,
    batch: Batch,
    direction: Mapping[str, Tensor],
) -> ReducedGradients:
    dtype = widened(next(iter(traced.parameters.values())).new_empty(0)).dtype
    queries = {name: value.unsqueeze(0).to(dtype) for name, value in direction.items()}
    run = make(traced, batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], ReductionSpec(None, queries))
    return run.reduce(_weights(batch))


def _dots(reduced: ReducedGradients) -> Tensor:
    assert reduced.dots_NBQ is not None
    return reduced.dots_NBQ[..., 0]


def _close(ours: Tensor, reference: Tensor, size: float, traced: TracedModel) -> bool:
    return bool(((ours - reference).abs() <= _tolerance(traced) * size).all())


def _tolerance(traced: TracedModel) -> float:
    dtype = next(iter(traced.parameters.values())).dtype
    return {torch.float64: 1e-5, torch.float32: 1e-3}.get(dtype, 0.1)
