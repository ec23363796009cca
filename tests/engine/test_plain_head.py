"""Tangents that end before the output head: where that holds, and the numbers with the head."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.engine.jvp import stacked_forward_mode
from haiftrace.engine.plain_head import HeadInput
from haiftrace.parameters.scopes import select_parameters
from tests import kit, tiny_models
from tests.oracle import Oracle, TrueFloat64


def engine_of(name: str, scope: str = "attention") -> GradientEngine:
    model = tiny_models.trained(name).double()
    return GradientEngine(model, select_parameters(model, scope))


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_both_ends_give_the_dots_of_dense_gradients(name: str) -> None:
    engine = engine_of(name)
    records = tiny_models.records(name)[:3]
    with nullcontext() if name == "gpt2" else TrueFloat64():
        oracle = Oracle.of(engine.model, records).over(list(engine.parameters))
        given = oracle.directions(3)
        queries = oracle.split(given)
        directions = [{key: rows[q] for key, rows in queries.items()} for q in range(3)]
        batch = make_batch(records)
        ends = {}
        for plain in {engine.support.plain_head, False} if engine.support.stacked else set():
            traced = replace(engine._traced, plain_head=plain)
            ends[plain] = stacked_forward_mode(traced, batch, directions)
    for losses_BT, dots_QBT in ends.values():
        for row, (losses, gradients) in enumerate(
            zip(oracle.losses, oracle.gradients, strict=True)
        ):
            kit.close(losses_BT[row, 1 : len(losses) + 1], losses)
            kit.close(dots_QBT[:, row, 1 : len(losses) + 1], given @ gradients.T)


def test_most_heads_are_plain_and_one_that_is_traced_is_not() -> None:
    assert all(engine_of(name).support.plain_head for name in ("gpt2", "llama", "qwen2-tied"))
    assert not engine_of("llama", "all").support.plain_head
    assert not engine_of("qwen2-tied", "matrices").support.plain_head  # tied to the embedding


def test_a_head_whose_output_is_changed_is_not_plain() -> None:
    """Even by so little that tangents agree within the trial's tolerance."""
    engine = engine_of("llama")
    model, head = engine.model, engine.model.lm_head
    forward = model.forward

    def capped(*args: Any, **more: Any) -> Any:
        output = forward(*args, **more)
        output.logits = 1e4 * torch.tanh(output.logits / 1e4)
        return output

    model.forward = capped
    try:
        other = GradientEngine(model, list(engine.parameters))
        assert other.support.stacked
        assert not other.support.plain_head
    finally:
        del model.forward
    assert "forward" not in head.__dict__


def test_a_pass_that_fails_gives_the_head_back() -> None:
    head = torch.nn.Linear(2, 3)
    with pytest.raises(TypeError), HeadInput(head):
        head(None)
    assert head(torch.ones(2)).shape == (3,)
