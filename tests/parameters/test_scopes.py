"""Which parameters a scope selects, on every architecture."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from haiftrace.errors import UsageError
from haiftrace.parameters import scopes
from haiftrace.parameters.scopes import Place, select_parameters, transformer_blocks
from tests import tiny_models

GPT2_BLOCK = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
LLAMA_BLOCK = [
    *(f"self_attn.{letter}_proj" for letter in "qkvo"),
    *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
]
MIXTRAL_BLOCK = [
    *(f"self_attn.{letter}_proj.weight" for letter in "qkvo"),
    "mlp.gate.weight",
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
]


def untrained(name: str) -> PreTrainedModel:
    """Scopes look at names and structure only."""
    return tiny_models._build(name)


def from_settings(model_type: str, **settings: Any) -> PreTrainedModel:
    common = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 32, "eos_token_id": 1}
    config = AutoConfig.for_model(model_type, **common, **settings)
    return AutoModelForCausalLM.from_config(config)


def test_linear_is_the_default_and_exact_on_gpt2() -> None:
    model = untrained("gpt2")
    expected = [f"transformer.h.{block}.{name}.weight" for block in range(2) for name in GPT2_BLOCK]
    assert select_parameters(model, "linear") == expected
    assert select_parameters(model) == expected


def test_linear_is_exact_on_mixtral() -> None:
    """The experts' stacked matrices and their router, which is no nn.Linear."""
    expected = [f"model.layers.{block}.{name}" for block in range(2) for name in MIXTRAL_BLOCK]
    assert select_parameters(untrained("mixtral"), "linear") == expected


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "qwen2-tied", "qwen2-untied"])
def test_linear_is_exact_on_llama_and_its_kin(name: str) -> None:
    expected = [
        f"model.layers.{block}.{matrix}.weight" for block in range(2) for matrix in LLAMA_BLOCK
    ]
    assert select_parameters(untrained(name), "linear") == expected


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_scopes_on_every_architecture(name: str) -> None:
    model = untrained(name)
    names = [parameter for parameter, _ in model.named_parameters()]
    shapes = {parameter: tuple(value.shape) for parameter, value in model.named_parameters()}
    linear = select_parameters(model, "linear")
    matrices = select_parameters(model, "matrices")

    assert select_parameters(model, "all") == names
    assert matrices == [parameter for parameter in names if len(shapes[parameter]) >= 2]
    # In these architectures every matrix outside `linear` is an embedding or the head.
    outside = [parameter for parameter in matrices if parameter not in linear]
    assert linear == [parameter for parameter in matrices if parameter not in outside]
    assert all(re.search(r"embed|wte|wpe|lm_head", parameter) for parameter in outside)
    assert not any(re.search(r"bias|norm|ln_", parameter) for parameter in linear)
    assert {re.search(r"\.(\d)\.", parameter)[1] for parameter in linear} == {"0", "1"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("model_type", "settings", "inside", "outside"),
    [
        (
            "gpt_oss",
            {"num_local_experts": 4, "num_attention_heads": 2, "head_dim": 8}
            | {"num_key_value_heads": 2, "intermediate_size": 16},
            {"mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"},
            {"mlp.router.bias", "mlp.experts.gate_up_proj_bias", "self_attn.sinks"},
        ),
        (
            "deepseek_v3",
            {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
            | {"num_attention_heads": 2, "num_key_value_heads": 2, "first_k_dense_replace": 0}
            | {"intermediate_size": 16, "moe_intermediate_size": 16}
            | {"q_lora_rank": 8, "kv_lora_rank": 8},
            {"mlp.gate.weight", "mlp.experts.down_proj", "mlp.shared_experts.up_proj.weight"},
            {"input_layernorm.weight"},
        ),
        (
            "mamba",
            {},
            {"mixer.in_proj.weight", "mixer.out_proj.weight"},
            {"mixer.conv1d.weight", "mixer.A_log", "mixer.D"},
        ),
    ],
)
def test_linear_on_further_architectures(
    model_type: str, settings: dict[str, Any], inside: set[str], outside: set[str]
) -> None:
    """Two-dimensional biases, convolutions and state matrices are no linear maps."""
    model = from_settings(model_type, **settings)
    block = {
        parameter.partition(".1.")[2]
        for parameter in select_parameters(model, "linear")
        if ".1." in parameter
    }
    everything = {parameter.partition(".1.")[2] for parameter, _ in model.named_parameters()}
    assert inside <= block
    assert outside <= everything - block


ATTENTION = {
    "gpt2": {"attn.c_attn.weight", "attn.c_proj.weight"},
    "gpt-neox": {"attention.query_key_value.weight", "attention.dense.weight"},
    "bloom": {"self_attention.query_key_value.weight", "self_attention.dense.weight"},
    "phi": {*(f"self_attn.{kind}_proj.weight" for kind in "qkv"), "self_attn.dense.weight"},
    "opt": {f"self_attn.{kind}_proj.weight" for kind in ("q", "k", "v", "out")},
}
VALUE = {
    "gpt2": "attn.c_attn.weight[:,64:96/96]",
    "gpt-neox": "attention.query_key_value.weight[16:24/24]",
    "bloom": "self_attention.query_key_value.weight[16:24/24]",
}


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_scopes_of_a_blocks_layers_on_every_architecture(name: str) -> None:
    model = untrained(name)

    def of_block(scope: str, block: int) -> list[str]:
        split = [n.partition(f".{block}.") for n in select_parameters(model, scope)]
        return [below for _, here, below in split if here]

    usual = {f"self_attn.{kind}_proj.weight" for kind in "qkvo"}
    for block in range(2):
        assert set(of_block("attention", block)) == ATTENTION.get(name, usual)
        assert of_block("value", block) == [VALUE.get(name, "self_attn.v_proj.weight")]
        both = {*of_block("attention", block), *of_block("mlp", block)}
        assert both == set(of_block("linear", block))
        assert not set(of_block("attention", block)) & set(of_block("mlp", block))
    assert of_block("last-half", 0) == []
    assert of_block("last-half", 1) == of_block("linear", 1)


def test_the_value_part_of_fewer_key_and_value_heads() -> None:
    phi3 = from_settings(
        "phi3",
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=16,
        pad_token_id=0,
    )
    assert select_parameters(phi3, "value") == [
        f"model.layers.{block}.self_attn.qkv_proj.weight[24:32/32]" for block in range(2)
    ]


@pytest.mark.parametrize("scope", ["attention", "value", "mlp"])
def test_blocks_without_such_a_part_are_refused(scope: str) -> None:
    with pytest.raises(UsageError, match=f"their {scope} matrices") as caught:
        select_parameters(from_settings("mamba"), scope)
    assert "regular expression" in caught.value.hint


# ---- regular expressions


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r"c_attn\.weight$", [f"transformer.h.{block}.attn.c_attn.weight" for block in range(2)]),
        (r"wte", ["transformer.wte.weight"]),
        (r"^lm_head\.weight$", ["transformer.wte.weight"]),  # tied: the same tensor
        (r"ln_f", ["transformer.ln_f.weight", "transformer.ln_f.bias"]),
        (r"^linear$|wpe", ["transformer.wpe.weight"]),
    ],
)
def test_regular_expressions(expression: str, expected: list[str]) -> None:
    assert select_parameters(untrained("gpt2"), expression) == expected


def test_tied_weights_are_named_once() -> None:
    model = untrained("qwen2-tied")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    both = select_parameters(model, "embed_tokens|lm_head")
    assert both == ["model.embed_tokens.weight"]
    assert len(select_parameters(untrained("qwen2-untied"), "embed_tokens|lm_head")) == 2


@pytest.mark.parametrize("expression", ["(unclosed", "*", "[z-a]", "a{99999999999}"])
def test_invalid_expression(expression: str) -> None:
    with pytest.raises(UsageError, match="regular expression") as caught:
        select_parameters(untrained("gpt2"), expression)
    assert (
        "linear, attention, value, mlp, last-half, adapter, matrices, all" in caught.value.message
    )
    assert "transformer." in caught.value.hint


def test_expression_that_matches_nothing_lists_some_names() -> None:
    with pytest.raises(UsageError, match="'liner' is neither") as caught:
        select_parameters(untrained("gpt2"), "liner")
    assert "transformer.wte.weight" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("scope", ["", "  "])
def test_an_empty_scope_is_not_everything(scope: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        select_parameters(untrained("gpt2"), scope)


@given(expression=st.text(alphabet="ehlmn.0124_|^$*+?()[]{}\\-x", max_size=12))
def test_any_expression_selects_by_name_or_is_refused(expression: str) -> None:
    model = _GPT_NEOX
    names = [parameter for parameter, _ in model.named_parameters()]
    expected: list[str] = []
    with suppress(re.error, OverflowError):
        expected = [name for name in names if expression and re.search(expression, name)]
    if expected:
        assert select_parameters(model, expression) == expected
    else:
        with pytest.raises(UsageError):
            select_parameters(model, expression)


_GPT_NEOX = tiny_models._build("gpt-neox")  # untied: every parameter has one name


# ---- structure


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_blocks_are_found_by_structure(name: str) -> None:
    blocks = transformer_blocks(untrained(name))
    assert blocks is not None
    assert len(blocks) == 2


class _Odd(nn.Module):
    """Only what scopes ask a model for: a base model, an embedding and a head."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        for name, module in modules.items():
            self.add_module(name, module)

    @property
    def base_model(self) -> nn.Module:
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_experts_in_a_longer_list_than_the_blocks_are_not_the_blocks() -> None:
    def block() -> nn.Module:
        return nn.ModuleDict(
            {"experts": nn.ModuleList(nn.Linear(4, 4) for _ in range(5)), "gate": nn.Linear(4, 5)}
        )

    model: Any = _Odd(layers=nn.ModuleList(block() for _ in range(2)))
    assert transformer_blocks(model) is model.layers
    selected = select_parameters(model, "linear")
    assert len(selected) == 2 * (5 + 1)
    assert "layers.1.experts.4.weight" in selected
    assert "layers.0.gate.weight" in selected


def test_head_and_embedding_are_excluded_wherever_they_stand() -> None:
    model: Any = _Odd(layers=nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]))
    model.layers.append(model.head)
    model.layers.append(model.embedding)
    assert select_parameters(model, "linear") == ["layers.0.weight", "layers.1.weight"]


def test_no_blocks_is_an_error_that_offers_the_other_scopes() -> None:
    model: Any = _Odd(dense=nn.Linear(4, 4))
    with pytest.raises(UsageError, match="'linear'") as caught:
        select_parameters(model, "linear")
    assert "--parameters all" in caught.value.hint
    assert select_parameters(model, "dense") == ["dense.weight", "dense.bias"]
    assert "head.weight" in select_parameters(model, "matrices")


def test_a_scope_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_block(place: Place) -> bool:
        return place.linear_map and place.block == 1

    monkeypatch.setitem(scopes.SCOPES, "last-block", last_block)
    selected = select_parameters(untrained("gpt2"), "last-block")
    assert selected == [f"transformer.h.1.{name}.weight" for name in GPT2_BLOCK]


def test_nothing_about_the_model_changes() -> None:
    model = untrained("gpt2").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for scope in ("linear", "matrices", "all", "wte"):
        select_parameters(model, scope)
    assert not any(value.requires_grad for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
