"""Speed against the obvious ways, in one run on the same record: run with `-m slow -s`.

GPT-2 of 124M parameters at random weights. Token norms are compared with a loop of single backward
passes over one retained graph; directional derivatives with plain forward passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from haiftrace.engine import GradientEngine, Support, make_batch
from haiftrace.scopes import select_parameters

pytestmark = pytest.mark.slow

LOOP_LABELS = 5
"""Labels that the loop is timed on, evenly spread; a full record is a minute or more."""


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Process time of the best of some runs (one CPU thread): load of others counts little."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def _loop_seconds(model: GPT2LMHeadModel, names: list[str], tokens: torch.Tensor) -> float:
    """Seconds of a loop of single backward passes for all labels of a record."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name].requires_grad_(True) for name in names]
    began = time.process_time()
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    forward = time.process_time() - began
    labels = torch.linspace(0, len(losses) - 1, LOOP_LABELS).long().tolist()

    def one(label: int) -> float:
        grads = torch.autograd.grad(losses[label], chosen, retain_graph=True)
        rows = (grad.flatten(1) if grad.ndim > 1 else grad[None] for grad in grads)
        return float(sum((row * row).sum(1).double().sum() for row in rows)) ** 0.5

    one(labels[0])
    began = time.process_time()
    for label in labels:
        one(label)
    return forward + (time.process_time() - began) / LOOP_LABELS * len(losses)


@pytest.mark.parametrize("scope", ["linear", "all"])
@pytest.mark.parametrize("length", [64, 128])
def test_norms_and_scores_are_fast(scope: str, length: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPT2Config(attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    names = select_parameters(model, scope)
    tokens = torch.randint(0, config.vocab_size, (1, length))
    batch = make_batch(tokens.tolist())
    engine = GradientEngine(model, names, support=Support(batched=True, forward_mode=True))

    with torch.no_grad():
        forward = _seconds(lambda: model(input_ids=tokens[:, :-1], use_cache=False), 6)
    norms = _seconds(lambda: engine.token_gradients(batch), 2)
    vectors = _seconds(lambda: engine.token_gradients(batch, engine.projector(512, 0)), 2)
    direction = {name: torch.randn_like(p) for name, p in engine.parameters.items()}
    scores = _seconds(lambda: engine.directional(batch, [direction]), 4)
    loop = _loop_seconds(model, names, tokens)

    print(
        f"\n{scope:6s} {length:3d} tokens: loop {loop:.1f} s, norms {norms:.2f} s"
        f" ({loop / norms:.1f} times faster), with token vectors {vectors:.2f} s;"
        f" forward {forward:.3f} s, scores {scores:.3f} s ({scores / forward:.2f} forward passes)"
    )
    assert loop / norms >= 10
    assert scores / forward <= 4
