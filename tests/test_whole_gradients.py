"""Several query directions from one forward pass, against a backward pass for each by itself."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import pytest
import torch

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.engine.whole import gradients_of
from haiftrace.scopes import select_parameters
from tests.oracle import TrueFloat64
from tests.tiny_models import NAMES, records, trained

cached_model = cache(trained)


@pytest.mark.parametrize("scope", ["attention", "value", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_several_gradients_are_those_of_single_backward_passes(name: str, scope: str) -> None:
    model = cached_model(name, torch.float64)
    engine = GradientEngine(model, select_parameters(model, scope))
    batch = make_batch([records(name)[1][:9]])
    weights_NBT = torch.rand(4, 1, batch.length, dtype=torch.float64)
    weights_NBT[:2] = 0.0
    weights_NBT[0, 0, 3] = weights_NBT[1, 0, batch.length - 1] = 1.0
    with nullcontext() if name == "gpt2" else TrueFloat64():
        each = [engine.gradient(batch, weights_BT) for weights_BT in weights_NBT]
        found = [engine.room_for(len(weights_NBT))]
        engine.fill_gradients(batch, weights_NBT, found[0])
        for batched in (False, True) if engine.support.batched else (False,):
            found.append(engine.room_for(len(weights_NBT)))
            gradients_of(engine._traced, batch, weights_NBT, batched, found[-1])
    largest = max(float(gradient.abs().max()) for gradient in each[-1].values())
    for together in found:
        assert set(together) == set(engine.parameters)
        for key, gradient_N in together.items():
            right_N = torch.stack([one[key] for one in each])
            assert gradient_N.shape == right_N.shape
            assert float((gradient_N - right_N).abs().max()) <= 1e-10 * largest


def test_a_parameter_that_no_loss_reaches_has_a_zero_gradient() -> None:
    """Embeddings of positions that the question does not reach."""
    model = cached_model("gpt2")
    engine = GradientEngine(model, ["transformer.wpe.weight"])
    batch = make_batch([records("gpt2")[0][:5]])
    weights_NBT = torch.ones(2, 1, batch.length)
    into = engine.room_for(len(weights_NBT))
    engine.fill_gradients(batch, weights_NBT, into)
    found = into["transformer.wpe.weight"]
    assert found.shape[0] == 2
    assert not found[:, batch.length :].any()
    assert found[:, : batch.length - 1].any()
