"""What the pass would get wrong, it refuses: found on the model itself, by its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from haiftrace.engine.direct import NoDirectGradients
from haiftrace.engine.direct.interface import Recorder, attention_by
from haiftrace.engine.direct.trial import find_direct_support
from tests.engine.unchanged import unchanged
from tests.tiny_models import NOT_DIRECT_NAMES, WIDTH, trained

OUTSIDE = "no layer has attention that transformers' interface reaches"
NOT_LINEAR = "not what one linear map gives|no linear map gives the values"
REASONS = {
    "bloom": OUTSIDE,
    "mamba": OUTSIDE,
    "falcon": OUTSIDE,
    "gptj": OUTSIDE,
    "jetmoe": NOT_LINEAR,
    "olmo": NOT_LINEAR,
    "gemma3n": NOT_LINEAR,
    "zamba2": "value projection|backward pass",
}


@pytest.mark.parametrize("name", NOT_DIRECT_NAMES)
def test_architectures_without_direct_gradients_are_refused(name: str) -> None:
    model = trained(name)
    with unchanged(model), pytest.raises(NoDirectGradients, match=REASONS[name]):
        find_direct_support(model)


class Then(nn.Module):
    """A linear map and something after it."""

    def __init__(self, inner: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.after = after

    def forward(self, hidden: Tensor) -> Tensor:
        return self.after(self.inner(hidden))


class LowRank(nn.Module):
    """A linear map with an adapter beside it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(WIDTH, 3, bias=False)
        self.up = nn.Linear(3, inner.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) + self.up(self.down(hidden))


class Bent(nn.Linear):
    """Looks like a linear map and is none."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(super().forward(hidden))


def bent(inner: nn.Module) -> nn.Module:
    module = Bent(WIDTH, 16)
    module.load_state_dict(inner.state_dict())
    return module


class InputNorm(nn.Linear):
    """A linear map of its normalised input: x̄ would be of the wrong one."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(F.layer_norm(hidden * hidden, (WIDTH,)))


ODD_VALUES: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "a norm after it": lambda v: Then(v, nn.RMSNorm(16)),
    "a norm of each head": lambda v: Then(
        v, lambda x: F.rms_norm(x.unflatten(-1, (2, 8)), (8,)).flatten(-2)
    ),
    "scaled": lambda v: Then(v, lambda x: 0.5 * x),
    "clipped in place": lambda v: Then(v, lambda x: x.clamp_(-0.1, 0.1)),
    "one head twice": lambda v: Then(v, lambda x: torch.cat([x[..., :8], x[..., :8]], -1)),
    "an adapter": LowRank,
    "not linear": bent,
    "of a normalised input": lambda v: InputNorm(WIDTH, 16),
    "shifted by a position": lambda v: Then(v, lambda x: F.pad(x[:, :-1], (0, 0, 1, 0))),
}


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_values_that_no_linear_map_gives_are_refused(odd: str) -> None:
    model = trained("qwen2-untied")
    attention = model.get_submodule("model.layers.1.self_attn")
    attention.v_proj = ODD_VALUES[odd](attention.v_proj)
    with unchanged(model), pytest.raises(NoDirectGradients, match=NOT_LINEAR):
        find_direct_support(model)


def _odd_forward(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Changes what a module gives."""
    before = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = before(*args, **kwargs)
        if isinstance(output, tuple):
            return change(output[0]), *output[1:]
        return change(output)

    module.forward = forward


def shifted(hidden: Tensor) -> Tensor:
    return hidden + 0.1 * F.pad(hidden[:, :-1], (0, 0, 1, 0))


def leaking(hidden: Tensor) -> Tensor:
    return hidden + 0.1 * hidden.flip(1)


def centred(hidden: Tensor) -> Tensor:
    return hidden - 0.1 * hidden.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("model.layers.1", shifted),
        ("model.layers.0", shifted),
        ("model.layers.1.self_attn", shifted),
        ("model.norm", shifted),
        ("lm_head", shifted),
        ("model.layers.1", leaking),
        ("model.layers.1", centred),
        ("lm_head", centred),
    ],
)
def test_streams_that_mix_elsewhere_are_refused(
    place: str, change: Callable[[Tensor], Tensor]
) -> None:
    model = trained("qwen2-untied")
    _odd_forward(model.get_submodule(place), change)
    with pytest.raises(NoDirectGradients, match=r"mix|single passes"):
        find_direct_support(model)


def test_what_mixes_below_the_lowest_attention_does_not_matter() -> None:
    model = trained("qwen2-untied")
    _odd_forward(model.get_input_embeddings(), shifted)
    assert find_direct_support(model).constants == ()


def _without_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any
) -> tuple[Tensor, None]:
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    output = F.scaled_dot_product_attention(query, key, value)
    return output.transpose(1, 2), None


def test_an_attention_that_does_not_heed_its_mask_is_refused() -> None:
    model = trained("qwen2-untied")
    ALL_ATTENTION_FUNCTIONS.register("tests-no-mask", _without_mask)
    model.set_attn_implementation("tests-no-mask")
    with pytest.raises(NoDirectGradients, match="not what transformers' interface says"):
        find_direct_support(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"position_bias": torch.zeros(1)},
        {"attention_mask": None, "is_causal": False},
        {"attention_mask": None},
    ],
)
def test_attention_with_unknown_arguments_is_refused(arguments: dict[str, Any]) -> None:
    model = trained("qwen2-untied")
    attention = model.get_submodule("model.layers.0.self_attn")
    before = attention.forward
    attention.forward = lambda *args, **kwargs: before(*args, **{**kwargs, **arguments})
    attention.sliding_window = 3
    with pytest.raises(NoDirectGradients, match="cannot be followed"):
        find_direct_support(model)


def test_a_pass_that_fails_leaves_the_model_as_it_was() -> None:
    model = trained("qwen2-untied")

    class Failing(Recorder):
        def attend(self, call: Any) -> Tensor:
            raise RuntimeError

    with unchanged(model):
        with pytest.raises(RuntimeError), attention_by(model, Failing()):
            model(input_ids=torch.tensor([[5, 6]]))
        assert model.config._attn_implementation == "eager"


def test_a_head_is_run_apart_whatever_it_does_where_its_model_lets_it() -> None:
    assert find_direct_support(trained("gemma2")).separate_head
    assert find_direct_support(trained("granite")).separate_head
    assert not find_direct_support(trained("llama4")).separate_head
