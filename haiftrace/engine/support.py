"""Which paths an architecture allows, found by trying them and checking their numbers.

Every model is tried once, on a few tokens: a fast path is used only where it ran and agreed with
plain backward passes on this very model. What fails takes the slower exact path, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from haiftrace.engine.backward import BatchedPass, Traced
from haiftrace.engine.batch import Batch, make_batch
from haiftrace.engine.capture import NeedsSingleRecord, Wanted
from haiftrace.engine.directional import forward_mode
from haiftrace.engine.loop import LoopPass

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
    """What the engine may do with a model.

    Attributes:
        batched: batched activation cotangents work and agree with single backward passes.
        forward_mode: forward-mode directional derivatives work and agree.
        single_record: some parameter's gradient is resolved by record only one record at a time.
        shared: parameters used more than once in a pass (see `Capture`).
        notes: for the user.
    """

    batched: bool
    forward_mode: bool
    single_record: bool = False
    shared: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def find_support(traced: Traced) -> Support:
    """Tries the fast paths on a few tokens and compares them with single backward passes."""
    support = Support(batched=False, forward_mode=False, single_record=True)
    vocabulary = traced.model.get_input_embeddings().weight.shape[0]
    device = next(iter(traced.parameters.values())).device
    batch = make_batch([[t % vocabulary for t in row] for row in TRIAL_TOKENS], device=device)
    single = batch.row(0)
    for trial, single_record in ((batch, False), (single, True)):
        try:
            shared = _shared_parameters(traced, trial)
            candidate = replace(traced, shared=shared)
            if _batched_agrees(candidate, trial):
                support = Support(True, False, single_record, shared)
                break
        except (NeedsSingleRecord, RuntimeError, NotImplementedError):
            continue
    try:
        works = _forward_mode_agrees(traced, single)
    except (RuntimeError, NotImplementedError):
        works = False
    notes = (() if support.batched else (SLOW_NORMS,)) + (() if works else (SLOW_SCORES,))
    return replace(support, forward_mode=works, notes=notes)


def _shared_parameters(traced: Traced, batch: Batch) -> frozenset[str]:
    """Parameters used twice in a pass, seen by a pass that counts uses."""
    run = BatchedPass(traced, batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], Wanted())
    return frozenset(name for name, count in run.uses.items() if count > 1)


def _batched_agrees(traced: Traced, batch: Batch) -> bool:
    weights = batch.labels_BT[:, 1:].double().unsqueeze(0)
    norms = [
        make(traced, batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], Wanted()).reduce(weights).norm_NB
        for make in (BatchedPass, LoopPass)
    ]
    return _close(norms[0], norms[1], traced)


def _forward_mode_agrees(traced: Traced, batch: Batch) -> bool:
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
        for name, p in traced.parameters.items()
    }
    _, dots_QBT = forward_mode(traced, batch, [direction])
    wanted = Wanted(None, {name: d.unsqueeze(0) for name, d in direction.items()})
    run = LoopPass(traced, batch.ids_BT[:, :-1], batch.ids_BT[:, 1:], wanted)
    dots_NBQ = run.reduce(torch.ones_like(run.losses_BJ).unsqueeze(0)).dots_NBQ
    assert dots_NBQ is not None
    scale = run.reduce(torch.ones_like(run.losses_BJ).unsqueeze(0)).norm_NB
    error = (dots_QBT.sum(-1) - dots_NBQ[..., 0]).abs().max()
    size = sum(float(d.double().pow(2).sum()) for d in direction.values()) ** 0.5
    return bool(error <= _tolerance(traced) * size * scale.max())


def _close(ours: Tensor, reference: Tensor, traced: Traced) -> bool:
    return bool(((ours - reference).abs() <= _tolerance(traced) * reference.max()).all())


def _tolerance(traced: Traced) -> float:
    dtype = next(iter(traced.parameters.values())).dtype
    return 0.1 if dtype in (torch.bfloat16, torch.float16) else 1e-3
