"""What the tests of methods share: traces over a tiny index, unit gradients, a training run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.engine import GradientEngine, inverse_norms
from haiftrace.methods.settings import FactorSettings, MethodSettings
from haiftrace.parameters.scopes import select_parameters
from haiftrace.progress import Silent
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.oracle import Oracle
from tests.tiny_models import SENTENCES

EMPIRICAL = FactorSettings(fisher="empirical")
RATES = (0.3, 0.1)


def unit(rows: Tensor) -> Tensor:
    return rows * inverse_norms(rows.norm(dim=-1)).unsqueeze(-1)


def precisely(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without an architecture's casts to float32."""

    def run(*arguments: Any, **named: Any) -> Any:
        with kit.precisely():
            return function(*arguments, **named)

    return run


def without_casts(engine: GradientEngine) -> None:
    """Makes the engine's passes exact, where reading weights in between does not work so."""
    passes = ("losses", "directional_derivatives", "token_dots", "gradient", "token_gradients")
    for function in passes:
        setattr(engine, function, precisely(getattr(engine, function)))


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def reopened(path: Path, name: str = "gpt2", memory: int = 512 << 20) -> Tracer:
    model = kit.checkpoint(name)
    with kit.precisely():
        return Tracer(Index.open(path), model, memory)


def trace(over: Tracer, method: str, progress: Silent | None = None, **told):
    """Findings of one trace by the method's name."""
    settings = TraceSettings(method, top=100, methods=MethodSettings(**told))
    # Reading weights from a file does not work in that mode, which GPT-2 does not need.
    with nullcontext() if "checkpoints" in told else kit.precisely():
        findings = over.trace(Leak(PROMPT, ANSWER), settings, progress or Silent())
    return {finding.method: finding for finding in findings}


def scores(finding) -> np.ndarray:
    """One a record, in the order of the corpus."""
    found = {record.id: record.score for record in finding.records}
    return np.array([found[f"r{i}"] for i in range(len(SENTENCES))])


@cache
def run(name: str) -> str:
    """Two checkpoints of a training run: the traced one, its weights disturbed and shrunk."""
    parts = []
    for number, rate in enumerate(RATES):
        path = kit.scratch(f"run-{name}-{number}")
        kit.copied_checkpoint(path, name)
        weights = load_file(path / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        for key, value in weights.items():
            noise = torch.randn(value.shape, generator=generator) * value.std().nan_to_num()
            weights[key] = value * (0.7 + 0.2 * number) + 0.1 * noise
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        parts.append(f"{path}:{rate}")
    return ",".join(parts)


@cache
def along(checkpoints: str, scope: str = "linear") -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """At each checkpoint of a run: every record's token gradients, and those of the answer."""
    found = []
    for part in checkpoints.split(","):
        model = load_checkpoint(part.rpartition(":")[0], dtype="float64", device="cpu")
        encoded = model.tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
        ids = [model.tokenizer(text)["input_ids"] for text in SENTENCES]
        model.model.requires_grad_(True)
        whole = precisely(Oracle.of)(model.model, [*ids, encoded["input_ids"]])
        *records, asked = whole.over(select_parameters(model.model, scope)).gradients
        wanted = [end > len(PROMPT) + 1 for _, end in encoded["offset_mapping"]]
        found.append((tuple(records), asked[wanted[1:]]))
    return found
