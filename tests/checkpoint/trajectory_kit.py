"""For the tests of trajectories: a run, the traced checkpoint, and how weights compare."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.checkpoint.trajectory import TrainingStep, TrainingTrajectory
from tests import kit
from tests.checkpoint.run_samples import trainer_output

BROKEN = "checkpoint-8"


@pytest.fixture(name="run")
@cache
def trainer_run() -> Path:
    """A Trainer's output that no test changes."""
    return trainer_output(kit.scratch("trainer-output"))


@pytest.fixture(name="spoilt")
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of which a test may break `BROKEN`."""
    return Path(shutil.copytree(run, tmp_path / "out"))


@pytest.fixture(name="traced")
def traced_checkpoint() -> Checkpoint:
    """The tiny GPT-2 in float32, loaded anew: a test may find its weights lost."""
    return load_checkpoint(kit.checkpoint_path(), device="cpu")


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same(model: PreTrainedModel, expected: dict[str, torch.Tensor]) -> bool:
    """Equal bit for bit."""
    state = model.state_dict()
    return state.keys() == expected.keys() and all(
        bits(value) == bits(expected[name]) for name, value in state.items()
    )


def identities(model: PreTrainedModel) -> list[Any]:
    """Of all parameters and buffers, under every name; and where their numbers are."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return [(name, id(x), x.data_ptr(), x.dtype, x.requires_grad, x.shape) for name, x in named]


def loaded(directory: Path, dtype: str = "float32") -> dict[str, torch.Tensor]:
    """The slow oracle: the directory's weights as loading it gives them."""
    return weights(load_checkpoint(directory, dtype=dtype, device="cpu").model)


def visit_all(trajectory: TrainingTrajectory) -> list[TrainingStep]:
    with trajectory.visiting() as steps:
        return list(steps)
