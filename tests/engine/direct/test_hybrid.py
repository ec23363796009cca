"""Hybrid models: their attention layers' direct gradients, with all other mixing held constant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from haiftrace.engine import make_batch
from haiftrace.engine.direct import DirectGradients
from tests.engine.direct.direct_oracle import direct_truth
from tests.engine.direct.test_oracle import (
    check_last_layer,
    close,
    joined,
    layers_of,
    sample,
    slopes_of,
)
from tests.engine.odd_modules import Depthwise
from tests.oracle import TrueFloat64
from tests.tiny_models import HYBRID_NAMES, trained

MIXERS = {
    "jamba": ("mamba",),
    "bamba": ("mamba",),
    "minimax": ("layers.0.self_attn", "layers.2.self_attn"),
    "qwen3-next": ("linear_attn",),
    "lfm2": ("conv",),
}
"""The ends of the names of what mixes positions without attention."""


def test_each_has_its_mixers() -> None:
    assert set(MIXERS) == set(HYBRID_NAMES)


def compare(name: str, model: nn.Module, mixers: tuple[str, ...]) -> DirectGradients:
    sequences, marks = sample(name)
    with TrueFloat64():
        direct = DirectGradients(model)
        losses_J, layers = layers_of(direct, make_batch(sequences, marks))
        known = [
            direct_truth(name, model, ids, [p for p, m in enumerate(row) if m], mixers)
            for ids, row in zip(sequences, marks, strict=True)
        ]
    close(losses_J, torch.cat([record.losses_J for record in known]))
    slopes, means = (joined([getattr(r, kind) for r in known]) for kind in ("slopes", "means"))
    gradients = joined([record.gradients() for record in known])
    assert len(layers) == len(slopes) == 2
    for layer, slope, mean, gradient in zip(layers, slopes, means, gradients, strict=True):
        close(slopes_of(layer), slope)
        close(layer.input_GJRD.transpose(0, 1).flatten(1, 2), mean)
        close(layer.norm_J, gradient.flatten(1).norm(dim=1))
    return direct


@pytest.mark.parametrize("name", HYBRID_NAMES)
def test_direct_gradients_are_those_with_mixers_held_constant(name: str) -> None:
    model = trained(name, torch.float64)
    direct = compare(name, model, MIXERS[name])
    constant_paths = {path for path, m in model.named_modules() if m in direct.support.constants}
    # Those below the lowest attention layer have no gradient anyway.
    assert constant_paths
    assert all(path.endswith(MIXERS[name]) for path in constant_paths)
    assert len(direct.notes) == 1
    assert "position" in direct.notes[0]


@pytest.mark.parametrize("name", HYBRID_NAMES)
def test_the_last_layers_gradient_is_the_full_one(name: str) -> None:
    check_last_layer(name, trained(name, torch.float64))  # which is of attention


def test_a_feed_forward_part_that_mixes_positions_is_held_constant() -> None:
    model = trained("qwen2-untied", torch.float64)
    layer = model.get_submodule("model.layers.1")
    layer.mlp = Depthwise(layer.mlp).to(torch.float64)
    direct = compare("qwen2-untied", model, ("layers.1.mlp",))
    assert direct.support.constants == (layer.mlp,)


def test_a_model_of_attention_has_no_notes() -> None:
    assert DirectGradients(trained("qwen2-untied")).notes == ()
