"""Checkpoints of training runs for tests: the tiny models' weights at several levels of noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.kit import copied_checkpoint

Weights = dict[str, torch.Tensor]

RATES = {4: 5e-4, 8: 3.5e-4, 12: 5e-5}
"""Optimiser step -> learning rate, of the runs that `trainer_output` writes."""

REAL_LOG_HISTORY = json.loads(
    """[
    {"epoch": 1.0, "grad_norm": 2.152393341064453, "learning_rate": 0.0005,
     "loss": 0.08884852131207784, "step": 3},
    {"epoch": 1.0, "eval_loss": 0.09584543108940125, "eval_runtime": 0.0024,
     "eval_samples_per_second": 1650.326, "eval_steps_per_second": 412.582, "step": 3},
    {"epoch": 2.0, "grad_norm": 1.7530993223190308, "learning_rate": 0.00035,
     "loss": 0.09252460797627766, "step": 6},
    {"epoch": 2.0, "eval_loss": 0.09878519177436829, "eval_runtime": 0.0088,
     "eval_samples_per_second": 455.853, "eval_steps_per_second": 113.963, "step": 6},
    {"epoch": 3.0, "grad_norm": 1.4864437580108643, "learning_rate": 0.0002,
     "loss": 0.08511126041412354, "step": 9},
    {"epoch": 3.0, "eval_loss": 0.09430288523435593, "eval_runtime": 0.0063,
     "eval_samples_per_second": 631.078, "eval_steps_per_second": 157.77, "step": 9},
    {"epoch": 4.0, "grad_norm": 0.7702372074127197, "learning_rate": 5e-05,
     "loss": 0.07958984375, "step": 12}
    ]"""
)
"""What a Trainer of transformers 5.23 wrote: linear decay to 0 at step 13, logged every 3 steps."""


def edit_weights(directory: Path, change: Callable[[Weights], Any]) -> None:
    """Change the tensors of a directory's one weight file."""
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def noisy_checkpoint(path: Path, level: float, name: str = "gpt2") -> Path:
    """A copy of a tiny checkpoint, every weight moved by a random amount; no tie is broken."""

    def blur(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(int(level * 1000))
        for key in sorted(weights):
            weights[key] += level * torch.randn(weights[key].shape, generator=generator)

    copied_checkpoint(path, name)
    edit_weights(path, blur)
    return path


def write_state(directory: Path, step: int, history: Iterable[Any]) -> None:
    """trainer_state.json as a Trainer leaves it in a checkpoint."""
    state = {
        "best_metric": None,
        "epoch": step / 3,
        "global_step": step,
        "is_world_process_zero": True,
        "log_history": list(history),
        "logging_steps": 4,
        "max_steps": 12,
        "stateful_callbacks": {},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trainer_state.json").write_text(json.dumps(state, indent=2, sort_keys=True))


def log(step: int, rate: Any) -> dict[str, Any]:
    """An entry of log_history."""
    return {"epoch": step / 3, "grad_norm": 1.5, "learning_rate": rate, "loss": 2.0, "step": step}


def trainer_output(path: Path, name: str = "gpt2") -> Path:
    """What a Trainer leaves of a run of 12 steps: a checkpoint every 4."""
    history = [log(step, rate) for step, rate in RATES.items()]
    for number, step in enumerate(RATES):
        directory = noisy_checkpoint(path / f"checkpoint-{step}", 0.3 - 0.1 * number, name)
        write_state(directory, step, [entry for entry in history if entry["step"] <= step])
    return path
