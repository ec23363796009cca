"""A pass frees its graph: a cycle through autograd's nodes is out of the collector's sight."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.engine.reductions import MatrixReduction
from haiftrace.parameters.scopes import select_parameters
from tests.tiny_models import records, trained


@pytest.mark.parametrize("scope", ["linear", "all"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mixtral"])
def test_nothing_of_a_pass_is_left(name: str, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(name)
    engine = GradientEngine(model, select_parameters(model, scope))
    alive: list[weakref.ref[MatrixReduction]] = []
    squared_norm = MatrixReduction.squared_norm

    def recorded(self: MatrixReduction, delta: torch.Tensor) -> torch.Tensor:
        alive.append(weakref.ref(self))
        return squared_norm(self, delta)

    monkeypatch.setattr(MatrixReduction, "squared_norm", recorded)
    batch = make_batch(records(name)[:2])
    engine.token_gradients(batch, engine.projector(64, 0))
    engine.record_gradients(batch, torch.ones(1, *batch.ids_BT.shape))
    gc.collect()
    assert alive
    assert not any(ref() is not None for ref in alive)
