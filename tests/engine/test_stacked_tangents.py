"""Several directions in one forward-mode pass: the numbers of a pass for each, at less cost."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from haiftrace.engine import GradientEngine, Support, make_batch
from haiftrace.engine.jvp import forward_mode, stacked_forward_mode
from haiftrace.parameters.scopes import select_parameters
from tests import kit, tiny_models
from tests.oracle import Oracle, TrueFloat64


@pytest.mark.parametrize("scope", ["attention", "value", "all"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-tied", "gpt-neox", "gemma3", "opt"])
def test_directions_that_share_a_pass_have_their_own_dots(name, scope):
    """Against dense per-token gradients, with the padding of a batch of unlike records."""
    model = tiny_models.trained(name).double()
    records = tiny_models.records(name)[:3]
    keys = select_parameters(model, scope)
    with TrueFloat64():
        oracle = Oracle.of(model, records).over(keys)
        engine = GradientEngine(model, keys)
        assert engine.support.stacked
        batch = make_batch(records)
        given = oracle.directions(5)
        queries = oracle.split(given)
        directions = [{key: rows[q] for key, rows in queries.items()} for q in range(5)]
        losses_BT, dots_QBT = engine.directional_derivatives(batch, directions)
        engine._memory = 1
        each_QBT = engine.directional_derivatives(batch, directions)[1]
    for row, (losses, gradients) in enumerate(zip(oracle.losses, oracle.gradients, strict=True)):
        count = len(gradients)
        kit.close(losses_BT[row, 1 : count + 1], losses)
        kit.close(dots_QBT[:, row, 1 : count + 1], given @ gradients.T)
        assert not dots_QBT[:, row, count + 1 :].any()
    kit.close(each_QBT, dots_QBT)


@pytest.mark.slow
def test_a_shared_pass_costs_less():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=4, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    support = Support(batched=True, forward_mode=True, stacked=True)
    engine = GradientEngine(model, select_parameters(model, "attention"), support=support)
    batch = make_batch(torch.randint(0, config.vocab_size, (1, 80)).tolist())
    directions = [{n: torch.randn_like(p) for n, p in engine.parameters.items()} for _ in range(6)]
    seconds = {}
    for run in (forward_mode, stacked_forward_mode):
        timings = []
        for _ in range(3):
            began = time.process_time()
            run(engine._traced, batch, directions)
            timings.append(time.process_time() - began)
        seconds[run.__name__] = min(timings)
    print(seconds)
    assert seconds["stacked_forward_mode"] < 0.85 * seconds["forward_mode"]
