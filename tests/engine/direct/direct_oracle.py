"""The slow, obvious oracle of direct gradients: single backward passes and explicit matrices.

Nothing of the engine is used but the batch: attention is written in plain autograd with the keys
and values of other positions detached, a label's gradient by each value projection is formed as the
sum of outer products, and where the values are comes from a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.tiny_models import WIDTH

_seen: list[tuple[Tensor, Tensor, int]] = []
"""Of each attention call: weights [H, T, T], outputs [1, H, T, E], key-value heads."""


def _oracle_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in which position i of row t counts with its gradient only where i is t."""
    heads, length, groups = query.shape[1], query.shape[2], key.shape[1]
    own_TT1 = torch.eye(length, dtype=torch.bool)[:, :, None]

    def seen_from(tensor_BGTX: Tensor) -> Tensor:
        """[H, T, T, X]: what each position sees of each."""
        wide = tensor_BGTX[0].repeat_interleave(heads // groups, 0)[:, None]
        wide = wide.expand(-1, length, -1, -1)
        return torch.where(own_TT1, wide, wide.detach())

    scores = torch.einsum("htc,htic->hti", query[0], seen_from(key)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + attention_mask[0]
    if s_aux is not None:
        scores = torch.cat([scores, s_aux[:, None, None].expand(-1, length, 1)], -1)
    weights = torch.softmax(scores, -1)[..., :length]
    # The weights have their own gradient; the values' is that of the row's own position.
    output = torch.einsum("hti,htie->hte", weights, seen_from(value))[None]
    if not output.requires_grad:
        output.requires_grad_(True)
    _seen.append((weights.detach(), output, groups))
    return output.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register("oracle", _oracle_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("oracle", eager_mask)

Columns = Callable[[Any, int], slice]
"""(configuration, key-value head) -> which outputs of the projection are its values."""


def _alone(config: Any, group: int) -> slice:
    width = getattr(config, "head_dim", None) or WIDTH // config.num_attention_heads
    return slice(group * width, (group + 1) * width)


def _last_of_three(config: Any, group: int) -> slice:
    return slice(group * 24 + 16, group * 24 + 24)


_VALUES: dict[str, tuple[str, Columns]] = {
    "gpt2": ("attn.c_attn", lambda _, g: slice(2 * WIDTH + 8 * g, 2 * WIDTH + 8 * (g + 1))),
    "gpt-neox": ("attention.query_key_value", _last_of_three),
    "phi3": (
        "self_attn.qkv_proj",
        lambda _, g: slice(WIDTH + 16 + 8 * g, WIDTH + 16 + 8 * (g + 1)),
    ),
    "gpt-bigcode": ("attn.c_attn", lambda *_: slice(WIDTH + 8, WIDTH + 16)),
    "deepseek-v3": ("self_attn.kv_b_proj", lambda _, g: slice(14 * g + 8, 14 * (g + 1))),
}


def value_columns(name: str) -> tuple[str, Columns]:
    """The name's end of the value projections of a model of `tiny_models`, and their columns."""
    return _VALUES.get(name, ("self_attn.v_proj", _alone))


@dataclass(frozen=True)
class DirectTruth:
    """What is known of the labels of one record.

    Attributes:
        losses_J: of its labels.
        slopes: [J, H, E] of each layer, e.
        means: [J, H, D] of each layer, x̄, not whitened.
        inputs: [T, D] of each layer, what the value projection reads.
        groups: key-value heads of each layer.
    """

    losses_J: Tensor
    slopes: list[Tensor]
    means: list[Tensor]
    inputs: list[Tensor]
    groups: list[int]

    def gradients(self, whitening: Sequence[Tensor | None] | None = None) -> list[Tensor]:
        """[J, G, E, D] of each layer: Σ e ⊗ x̄ over the heads of a group, x̄ whitened."""
        stacked = []
        for layer, (slope_JHE, mean_JHD) in enumerate(zip(self.slopes, self.means, strict=True)):
            matrix = whitening[layer] if whitening else None
            count, heads, width = slope_JHE.shape
            groups = self.groups[layer]
            gradient = torch.zeros(count, groups, width, mean_JHD.shape[-1], dtype=mean_JHD.dtype)
            for j in range(count):
                for h in range(heads):
                    x = mean_JHD[j, h] if matrix is None else matrix.T @ mean_JHD[j, h]
                    gradient[j, h * groups // heads] += torch.outer(slope_JHE[j, h], x)
            stacked.append(gradient)
        return stacked


def direct_truth(
    name: str,
    model: Any,
    ids: Sequence[int],
    labels: Sequence[int] | None = None,
    constant: Sequence[str] = (),
) -> DirectTruth:
    """Direct gradients of labels of one record, one backward pass each.

    Args:
        labels: places in `ids`; all but the first when None.
        constant: name ends of modules whose output is a constant.
    """
    places = list(range(1, len(ids)) if labels is None else labels)
    tokens = torch.tensor([list(ids)])
    inputs: list[Tensor] = []
    end = value_columns(name)[0]
    hooks = [
        module.register_forward_hook(lambda _, x, __: inputs.append(x[0].detach().flatten(0, -2)))
        for path, module in model.named_modules()
        if path.endswith(end)
    ]
    hooks += [
        module.register_forward_hook(lambda _, __, out: _constant(out))
        for path, module in model.named_modules()
        if path.endswith(tuple(constant)) and constant
    ]
    _seen.clear()
    with _attending(model):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    outputs = [output for _, output, _ in _seen]
    losses, slopes = [], []
    for place in places:
        loss = F.cross_entropy(logits[place - 1].double(), tokens[0, place])
        each = torch.autograd.grad(loss, outputs, retain_graph=True)
        for slope in each:  # streams do not mix
            others = slope.clone()
            others[0, :, place - 1] = 0
            assert not others.any()
        losses.append(loss.detach())
        slopes.append([slope[0, :, place - 1] for slope in each])
    means = [
        torch.stack([weights[:, p - 1] @ x for p in places])
        for (weights, _, _), x in zip(_seen, inputs, strict=True)
    ]
    return DirectTruth(
        torch.stack(losses),
        [torch.stack(layer) for layer in zip(*slopes, strict=True)],
        means,
        inputs,
        [groups for _, _, groups in _seen],
    )


def _constant(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_constant(item) for item in output)
    return output.detach() if isinstance(output, Tensor) else output


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    all_parameters = list(model.parameters())
    for parameter in all_parameters:
        parameter.requires_grad_(False)
    model.set_attn_implementation("oracle")
    try:
        yield
    finally:
        model.set_attn_implementation("eager")
        for parameter in all_parameters:
            parameter.requires_grad_(True)


def full_value_gradients(name: str, model: Any, ids: Sequence[int], groups: int) -> Tensor:
    """[J, G, E, D] full gradients by the last layer's W_V, by ordinary autograd."""
    end, columns = value_columns(name)
    weight = [m for path, m in model.named_modules() if path.endswith(end)][-1].weight
    tokens = torch.tensor([list(ids)])
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    stacked = []
    for place in range(1, len(ids)):
        loss = F.cross_entropy(logits[place - 1].double(), tokens[0, place])
        (weight_grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        weight_grad = (
            weight_grad.T if name == "gpt2" else weight_grad
        )  # Conv1D holds its weight transposed
        stacked.append(torch.stack([weight_grad[columns(model.config, g)] for g in range(groups)]))
    return torch.stack(stacked)
