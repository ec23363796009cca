"""Parameters that are used in ways nobody foresaw are exact, and none is skipped silently."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
)

from haiftrace.engine import GradientEngine, make_batch
from haiftrace.engine.support import SLOW_NORMS, SLOW_SCORES, TRIAL_TOKENS
from haiftrace.parameters.scopes import select_parameters
from tests.engine.odd_modules import (
    ODD_EMBEDDINGS,
    UNKNOWN,
    Beside,
    CustomFunction,
    Experts,
    InPlace,
    Lookups,
    Residual,
)
from tests.engine.unchanged import unchanged
from tests.oracle import (
    Oracle,
    TrueFloat64,
    beyond,
    errors,
    numbers_of_engine,
    numbers_of_oracle,
)
from tests.tiny_models import VOCABULARY, WIDTH, records, trained


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def model_with(change: Callable[[PreTrainedModel], None], name: str = "llama") -> PreTrainedModel:
    """The trained model `name` with new parts, in float64."""
    model = trained(name)
    change(model)
    return model.double().eval().requires_grad_(True)


def beside_each(kind: type[Beside]) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        for block in blocks(model):
            block.mlp = kind(block.mlp)

    return change


def sample(name: str) -> list[list[int]]:
    first, second = records(name)[:2]
    return [first[:5], second[:10], second[:2]]


def engine_errors(
    model: PreTrainedModel, name: str = "llama", pattern: str | None = None
) -> tuple[GradientEngine, dict[str, float]]:
    """The engine over all of an unknown model, and its errors beyond 1e-9.

    Args:
        pattern: regular expression of the names over which alone token norms are to be exact too.
    """
    rows = sample(name)
    with TrueFloat64():
        oracle = Oracle.of(model, rows)
        directions = torch.cat([oracle.gradients[1][[3, 8]], oracle.directions(1)])
        with unchanged(model):
            engine = GradientEngine(model, select_parameters(model, "all"))
            ours = numbers_of_engine(engine, rows, oracle, directions)
        wrong = beyond(errors(ours, numbers_of_oracle(oracle, directions)), 1e-9)
        if pattern is not None:
            names = select_parameters(model, pattern)
            batch = make_batch(rows)
            norms_BT = GradientEngine(model, names).token_gradients(batch).norms_BT
            right = torch.cat([rows.norm(dim=1) for rows in oracle.over(names).gradients])
            label_norms = norms_BT[batch.labels_BT]
            torch.testing.assert_close(label_norms, right, rtol=1e-9, atol=1e-12)
    return engine, wrong


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_module_is_exact(kind: type[Beside]) -> None:
    model = model_with(beside_each(kind))
    new = [key for key, _ in model.named_parameters() if ".mlp." in key and ".inner." not in key]
    assert new
    engine, wrong = engine_errors(model, pattern="|".join(new).replace(".", r"\."))
    assert wrong == {}
    # In most of these cases a single pass of many cotangents still does it.
    assert engine.support.batched == (kind not in (Residual, CustomFunction))
    assert (SLOW_NORMS in engine.notes) != engine.support.batched
    assert (SLOW_SCORES in engine.notes) != engine.support.forward_mode


def test_parameters_that_are_never_used_have_no_gradient() -> None:
    model = model_with(beside_each(InPlace))
    engine = GradientEngine(model, select_parameters(model, "idle"))
    assert engine.notes == ()
    batch = make_batch(sample("llama"))
    tokens = engine.token_gradients(batch, engine.projector(16, 0))
    assert tokens.vectors_BTK is not None
    assert not tokens.norms_BT.any()
    assert not tokens.vectors_BTK.any()
    assert tokens.losses_BT.any()


def test_one_linear_map_shared_by_both_layers_is_exact() -> None:
    def change(model: PreTrainedModel) -> None:
        shared = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))
        for block in blocks(model):
            block.mlp = shared

    engine, wrong = engine_errors(model_with(change))
    assert wrong == {}
    assert engine.support.batched
    assert engine.support.forward_mode


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_layers_that_share_all_their_weights_are_exact(name: str) -> None:
    def change(model: PreTrainedModel) -> None:
        first, second = blocks(model)
        for key, value in first.named_parameters():
            parent, _, attribute = key.rpartition(".")
            setattr(second.get_submodule(parent), attribute, value)

    engine, wrong = engine_errors(model_with(change, name), name)
    assert wrong == {}
    assert engine.support.batched


def test_experts_whose_tokens_the_trial_could_not_foresee() -> None:
    """All of the trial's tokens go to one expert: the records' do not, and share none's rows."""
    model = model_with(beside_each(Experts))
    seen: dict[tuple[int, ...], Tensor] = {}
    first = blocks(model)[0].mlp
    hook = first.register_forward_pre_hook(
        lambda _, inputs: seen.__setitem__(inputs[0].shape[:2], inputs[0][..., 0].flatten())
    )
    trial = make_batch(TRIAL_TOKENS)
    batch = make_batch(sample("llama"))
    with torch.no_grad(), TrueFloat64():
        model(trial.ids_BT[:, :-1])
        model(batch.ids_BT[:, :-1])
    hook.remove()
    in_trial, in_batch = seen.values()
    first.threshold = float(in_trial.max())
    assert 0 < int((in_batch > first.threshold).sum()) < len(in_batch)
    blocks(model)[1].mlp.threshold = 1e9
    engine, wrong = engine_errors(model)
    assert wrong == {}
    assert engine.support.batched
    assert not engine.support.single_record


@pytest.mark.parametrize("importance", [1.0, 1e-3])
def test_a_parameter_behind_the_head_is_exact(importance: float) -> None:
    def change(model: PreTrainedModel) -> None:
        model.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))

        def forward(self: Any, **inputs: Any) -> Any:
            output = type(model).forward(self, **inputs)
            output.logits = output.logits * (1 + importance * (self.temperature - 1))
            return output

        model.forward = MethodType(forward, model)

    model = model_with(change)
    engine, wrong = engine_errors(model)
    assert wrong == {}
    assert engine.notes[0] == SLOW_NORMS


def test_a_head_that_is_no_linear_module_is_exact() -> None:
    class Head(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.kernel = nn.Parameter(weight.t().clone())

        def forward(self, hidden: Tensor) -> Tensor:
            return hidden @ self.kernel

    def change(model: PreTrainedModel) -> None:
        model.lm_head = Head(model.lm_head.weight.detach())

    engine, wrong = engine_errors(model_with(change))
    assert wrong == {}
    assert engine.notes == (SLOW_NORMS,)


@pytest.mark.parametrize("kind", ODD_EMBEDDINGS)
@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-untied"])
def test_an_odd_embedding_is_exact_tied_or_not(name: str, kind: type[Lookups]) -> None:
    def change(model: PreTrainedModel) -> None:
        model.model.embed_tokens = kind(model.model.embed_tokens)

    _, wrong = engine_errors(model_with(change, name), name)
    assert wrong == {}


_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": None,
}
STRANGERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "a state-space model": lambda: MambaConfig(state_size=4, **_COMMON),
    "experts beside a shared one": lambda: Qwen2MoeConfig(
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **_COMMON,
    ),
    "soft-capped logits": lambda: Gemma2Config(
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        head_dim=8,
        sliding_window=4,
        **_COMMON,
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_an_architecture_that_no_rule_was_made_for_is_exact(what: str) -> None:
    model = AutoModelForCausalLM.from_config(STRANGERS[what](), experts_implementation="eager")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    engine, wrong = engine_errors(model.double().eval())
    assert wrong == {}
    assert engine.notes == ()


def test_whether_parameters_require_gradients_does_not_matter() -> None:
    model = trained("qwen2-tied", torch.float64)
    rows = sample("qwen2-tied")
    names = select_parameters(model, "all")
    with TrueFloat64():
        oracle = Oracle.of(model, rows)
        directions = oracle.directions(2)
        right = numbers_of_oracle(oracle, directions)
        model.requires_grad_(False)
        engine = GradientEngine(model, names)
        assert engine.notes == ()
        ours = numbers_of_engine(engine, rows, oracle, directions)
    assert beyond(errors(ours, right), 1e-9) == {}
