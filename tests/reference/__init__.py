"""Committed numbers of other people's programs, with the very weights that they were computed on.

`kronfluence.json` holds the influence scores that kronfluence, the library for EK-FAC influence
functions (Grosse et al. 2023), gives on two tiny trained models; `make_kronfluence` made it. The
weights are stored beside it: training is not reproducible to the last bit across machines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HERE = Path(__file__).parent
NUMBERS = HERE / "kronfluence.json"
NAMES = ("gpt2", "qwen2-tied")


@dataclass(frozen=True)
class Query:
    """A response that is traced.

    Attributes:
        ids: the whole sequence.
        answer: how many labels at its end the measurement, their mean loss, is taken over.
    """

    ids: list[int]
    answer: int


@dataclass(frozen=True)
class Reference:
    """What kronfluence found on one model.

    Attributes:
        model: in evaluation mode with eager attention.
        affine: names of matrix and bias (or None) of every affine map that was tracked.
        records: the training set, token ids.
        queries: the measurements.
        scores: [Q, K] by damping: the measurement's gradient, times the inverse of EK-FAC's damped
            Fisher information, times the gradient of the record's summed token losses. Damping
            None is 0.1 times the mean eigenvalue of each matrix, a number is added as it is.
        factors: by matrix: traces of the two covariances, mean and largest corrected eigenvalue.
    """

    model: PreTrainedModel
    affine: tuple[tuple[str, str | None], ...]
    records: list[list[int]]
    queries: tuple[Query, ...]
    scores: dict[float | None, Tensor]
    factors: dict[str, dict[str, float]]


def load_reference(
    name: str, dtype: torch.dtype = torch.float64, *, biases: bool = True
) -> Reference:
    """The numbers on model `name` (one of `NAMES`) and a fresh copy of that model in `dtype`.

    They were computed in float64 throughout, in `tests.oracle.TrueFloat64`.

    Args:
        biases: with the biases of the tracked modules traced and folded in, or the matrices only.
    """
    entry = _numbers()["models"][name]
    (found,) = (part for part in entry["found"] if part["biases"] == biases)
    config = AutoConfig.for_model(**entry["config"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    _restore(model, load_file(_weights(name)))
    return Reference(
        model.eval().requires_grad_(True),
        tuple((weight, bias if biases else None) for weight, bias in entry["affine"]),
        entry["records"],
        tuple(Query(**query) for query in entry["queries"]),
        {
            row["damping"]: torch.tensor(row["scores"], dtype=torch.float64)
            for row in found["scores"]
        },
        found["factors"],
    )


def save_model(name: str, model: PreTrainedModel) -> dict[str, Any]:
    """Write the weights of a model in float32; gives the configuration, for the JSON."""
    # Tied parameters are named, and stored, once.
    weights = {key: value.detach().contiguous() for key, value in model.named_parameters()}
    assert all(value.dtype == torch.float32 for value in weights.values())
    save_file(weights, _weights(name))
    config = model.config.to_diff_dict()
    for volatile in ("transformers_version", "architectures", "_name_or_path", "dtype"):
        config.pop(volatile, None)
    return config


def affine_maps(model: PreTrainedModel, matrices: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names of each matrix and of the bias of the same module, or None where it has none."""
    names = {name for name, _ in model.named_parameters()}
    biases = [matrix.removesuffix("weight") + "bias" for matrix in matrices]
    return [(m, b if b in names else None) for m, b in zip(matrices, biases, strict=True)]


@cache
def _numbers() -> dict[str, Any]:
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def _weights(name: str) -> Path:
    return HERE / f"kronfluence_{name}.safetensors"


@torch.no_grad()
def _restore(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    assert parameters.keys() == weights.keys()
    for name, value in weights.items():
        assert parameters[name].shape == value.shape
        parameters[name].copy_(value)
