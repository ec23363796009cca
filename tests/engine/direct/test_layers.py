"""Of a deep model the upper half of the layers judges: what they give does not depend on that."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from haiftrace.engine import DirectGradients, make_batch
from haiftrace.engine.direct.trial import find_direct_support

COMMON = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": 1}
CONFIGS = {
    "gpt2": lambda layers: GPT2Config(
        n_layer=layers, n_embd=16, n_head=2, n_positions=32, **COMMON
    ),
    "qwen2": lambda layers: Qwen2Config(
        num_hidden_layers=layers,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **COMMON,
    ),
}


def model(name: str, layers: int):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(
            CONFIGS[name](layers), attn_implementation="eager", dtype=torch.float64
        )
    return made.eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("layers", "first"), [(1, 0), (4, 0), (8, 0), (9, 1), (12, 4), (16, 8), (17, 8)]
)
def test_the_upper_half_and_eight_at_least(name: str, layers: int, first: int) -> None:
    made = model(name, layers)
    direct = DirectGradients(made)
    every = DirectGradients(made, support=find_direct_support(made))
    assert (direct.first_layer, direct.layers) == (first, layers - first)
    assert (every.first_layer, every.layers) == (0, layers)
    batch = make_batch([[3, 5, 2, 9, 11, 4], [7, 7, 8]])
    question = make_batch([[3, 5, 6, 10]], [[False, False, True, True]])
    losses, ours = direct.cosines(batch, direct.queries([question]))
    right_losses, right = every.cosines(batch, every.queries([question]))
    torch.testing.assert_close(losses, right_losses)
    for layer, theirs in zip(ours, list(right)[first:], strict=True):
        torch.testing.assert_close(layer, theirs)
        assert theirs.abs().max() > 0.01
