"""Speed against the obvious ways, in one run on the same record: run with `-m slow -s`.

GPT-2 of 124M parameters at random weights. Token norms are compared with two loops of single
backward passes: the plain one (a forward and a backward pass a label, as the oracle of the tests
does it) and one that keeps the graph of a single forward pass. Directional derivatives are compared
with plain forward passes. Loops are timed on a few labels, evenly spread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from haiftrace.engine import GradientEngine, Support, make_batch
from haiftrace.parameters.scopes import select_parameters

pytestmark = pytest.mark.slow

LOOP_LABELS = 5
"""Labels that the loops are timed on; a full record is a minute or more."""


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Process time of the best of some runs (one CPU thread): load of others counts little."""
    shortest = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        run()
        shortest = min(shortest, time.process_time() - began)
    return shortest


def _loop_seconds(
    model: GPT2LMHeadModel, names: list[str], tokens: torch.Tensor, keep_graph: bool
) -> float:
    """Seconds of a loop of single backward passes for all labels of a record."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name].requires_grad_(True) for name in names]

    def losses() -> torch.Tensor:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
        return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")

    def norm_of(loss: torch.Tensor) -> float:
        grads = torch.autograd.grad(loss, chosen, retain_graph=keep_graph)
        rows = (grad.flatten(1) if grad.ndim > 1 else grad[None] for grad in grads)
        return float(sum((row * row).sum(1).double().sum() for row in rows)) ** 0.5

    kept = losses()
    count = len(kept)
    labels = torch.linspace(0, count - 1, LOOP_LABELS).long().tolist()
    norm_of(kept[labels[0]] if keep_graph else losses()[labels[0]])
    began = time.process_time()
    for label in labels:
        norm_of(kept[label] if keep_graph else losses()[label])
    return (time.process_time() - began) / LOOP_LABELS * count


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
    scores = _seconds(lambda: engine.directional_derivatives(batch, [direction]), 4)
    plain = _loop_seconds(model, names, tokens, keep_graph=False)
    kept = _loop_seconds(model, names, tokens, keep_graph=True)

    print(
        f"\n{scope:6s} {length:3d} tokens: norms {norms:.2f} s, with token vectors {vectors:.2f} s;"
        f" plain loop {plain:.1f} s ({plain / norms:.1f} times), loop over a kept graph"
        f" {kept:.1f} s ({kept / norms:.1f} times); forward {forward:.3f} s, scores {scores:.3f} s"
        f" ({scores / forward:.2f} forward passes)"
    )
    assert plain / norms >= 6
    assert kept / norms >= 4
    assert scores / forward <= 4
