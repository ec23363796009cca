"""Which paths the engine takes, and that it takes none whose numbers are wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from haiftrace.engine import GradientEngine, batched_pass, jvp, make_batch, reductions
from haiftrace.engine.support import SLOW_NORMS, SLOW_SCORES
from haiftrace.parameters.scopes import select_parameters
from tests.tiny_models import NAMES, records, trained


def sample(name: str) -> list[list[int]]:
    first, second = records(name)[:2]
    return [first[:5], second[:10], second[:2]]


@pytest.mark.parametrize(
    ("scope", "dtype"),
    [("linear", torch.float32), ("all", torch.float32), ("all", torch.bfloat16)],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_paths_of_every_architecture(name: str, scope: str, dtype: torch.dtype) -> None:
    model = trained(name, dtype)
    support = GradientEngine(model, select_parameters(model, scope)).support
    assert support.batched
    assert support.forward_mode == (name != "bloom")
    assert support.notes == ((SLOW_SCORES,) if name == "bloom" else ())
    # Gemma's norms multiply by one plus their weight, which no rule of its own knows.
    may_be_single = ("mixtral",) if scope == "linear" else ("mixtral", "gemma3")
    assert support.single_record <= (name in may_be_single)
    assert all("experts" in shared for shared in support.shared)


def _twice(value: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: 2 * value(*args)


WRONG: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "a matrix's norm": lambda: patch.object(
        reductions.MatrixReduction, "squared_norm", _twice(reductions.MatrixReduction.squared_norm)
    ),
    "a matrix's dots": lambda: patch.object(
        reductions.MatrixReduction, "dots", _twice(reductions.MatrixReduction.dots)
    ),
    "a bias's dots": lambda: patch.object(
        reductions.VectorReduction, "dots", _twice(reductions.VectorReduction.dots)
    ),
    "the head's norm": lambda: patch.object(
        reductions.HeadReduction, "squared_norm", _twice(reductions.HeadReduction.squared_norm)
    ),
    "the tied matrix's cross term": lambda: patch.object(
        reductions.HeadReduction, "tied_cross", _twice(reductions.HeadReduction.tied_cross)
    ),
    "an embedding's dots": lambda: patch.object(
        reductions.EmbeddingReduction, "dots", _twice(reductions.EmbeddingReduction.dots)
    ),
    "the cotangents": lambda: patch.object(
        batched_pass.BatchedPass, "_cotangents", _twice(batched_pass.BatchedPass._cotangents)
    ),
    "a refusal of any kind": lambda: patch.object(
        reductions.MatrixReduction, "squared_norm", side_effect=KeyError("no such thing")
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fast_path_with_wrong_numbers_is_not_taken(what: str, dtype: torch.dtype) -> None:
    model = trained("gpt2", dtype)
    names = select_parameters(model, "all")
    batch = make_batch(sample("gpt2"))
    right = GradientEngine(model, names).token_gradients(batch).norms_BT
    with WRONG[what]():
        engine = GradientEngine(model, names)
        assert not engine.support.batched
        assert engine.support.forward_mode
        assert engine.notes == (SLOW_NORMS,)
        computed = engine.token_gradients(batch).norms_BT
    torch.testing.assert_close(computed, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_forward_mode_is_not_taken(dtype: torch.dtype) -> None:
    model = trained("llama", dtype)
    names = select_parameters(model, "all")
    batch = make_batch(sample("llama"))
    direction = {name: torch.ones_like(value) for name, value in model.named_parameters()}
    _, right = GradientEngine(model, names).directional_derivatives(batch, [direction])

    def tilted(*args: Tensor) -> Tensor:
        return 1.05 * tangents(*args)

    tangents = jvp.loss_tangents
    with patch.object(jvp, "loss_tangents", tilted):
        engine = GradientEngine(model, names)
        assert engine.support.batched
        assert not engine.support.forward_mode
        assert engine.notes == (SLOW_SCORES,)
        _, computed = engine.directional_derivatives(batch, [direction])
    size = float(right.abs().max())
    torch.testing.assert_close(computed, right, rtol=1e-4, atol=1e-5 * size)
