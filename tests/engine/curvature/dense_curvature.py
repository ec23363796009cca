"""Dense curvature matrices of trained models, over a few hundred parameters of one architecture.

By PyTorch's own `jacobian` and `hessian` of the whole model and the textbook's cross-entropy, in
float64 throughout: slow, and nothing in common with the engine's products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional as F
from transformers import PreTrainedModel

from tests.oracle import TrueFloat64, flatten
from tests.tiny_models import records, trained

SCOPES: dict[str, tuple[str, ...]] = {
    "gpt2": (
        "transformer.h.0.attn.c_attn.bias",
        "transformer.h.1.ln_1.weight",
        "transformer.h.1.mlp.c_fc.bias",
    ),
    "llama": ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"),
    "qwen2-tied": (
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
    ),
    "bloom": (
        "transformer.word_embeddings_layernorm.bias",
        "transformer.h.0.mlp.dense_h_to_4h.bias",
        "transformer.h.1.input_layernorm.weight",
    ),
    "mixtral": ("model.layers.0.mlp.gate.weight", "model.layers.1.self_attn.v_proj.weight"),
}
"""Parameters of each architecture: matrices where they are small enough, biases and norms."""


@dataclass(frozen=True)
class DenseScope:
    """A trained float64 model and a few hundred of its parameters."""

    model: PreTrainedModel
    names: tuple[str, ...]

    @property
    def start(self) -> Tensor:
        """[P] the parameters."""
        return flatten(dict(self.model.named_parameters()), self.names).detach()

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector [P] by parameter name."""
        chosen = [self.model.get_parameter(name) for name in self.names]
        flat_values = flat.split([value.numel() for value in chosen])
        return {
            name: values.reshape(value.shape)
            for name, values, value in zip(self.names, flat_values, chosen, strict=True)
        }

    def _logits(self, flat: Tensor, ids: Sequence[int]) -> Tensor:
        inputs = {"input_ids": torch.tensor([list(ids[:-1])]), "use_cache": False}
        return functional_call(self.model, self.named(flat), kwargs=inputs).logits[0]

    def jacobian(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Logits [T-1, V] of one record and their Jacobian [T-1, V, P]."""
        with TrueFloat64():
            jacobian_VP = jacobian(lambda flat: self._logits(flat, ids), self.start, vectorize=True)
            return self._logits(self.start, ids).detach(), jacobian_VP

    def gauss_newton(self, ids: Sequence[int], weights: Tensor) -> Tensor:
        """`Σ w Jᵀ (diag(p) - p pᵀ) J` [P, P] of the labels' weights [T-1]."""
        logits, rows = self.jacobian(ids)
        total = torch.zeros(rows.shape[-1], rows.shape[-1], dtype=torch.float64)
        for probabilities, row_VP, weight in zip(logits.softmax(-1), rows, weights, strict=True):
            curved = probabilities.diag() - torch.outer(probabilities, probabilities)
            total += weight * row_VP.T @ curved @ row_VP
        return total

    def hessian(self, ids: Sequence[int], weights: Tensor) -> Tensor:
        """`∇² Σ w l` [P, P]."""

        def loss(flat: Tensor) -> Tensor:
            each = F.cross_entropy(
                self._logits(flat, ids), torch.tensor(list(ids[1:])), reduction="none"
            )
            return (each * weights).sum()

        with TrueFloat64():
            return hessian(loss, self.start, vectorize=True)


@cache
def dense_scope(name: str) -> DenseScope:
    """The trained model of an architecture and its `SCOPES`."""
    return DenseScope(trained(name, torch.float64), SCOPES[name])


def sample(name: str) -> list[list[int]]:
    """Three learnt records of unequal length, the last of two tokens."""
    first, second, third = records(name)[:3]
    return [first[:6], second[:12], third[:2]]
