"""A run's checkpoints, checked against the traced one: what is read and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.checkpoint.trajectory import TrainingStep, TrainingTrajectory
from haiftrace.errors import CheckpointError, UsageError
from tests import kit
from tests.checkpoint.run_samples import RATES, edit_json, edit_weights
from tests.checkpoint.trajectory_kit import (
    BROKEN,
    own_run,  # noqa: F401 (the fixture spoilt)
    traced_checkpoint,  # noqa: F401 (the fixture traced)
    trainer_run,  # noqa: F401 (the fixture run)
)


def refusal(spec: object, traced: Checkpoint) -> CheckpointError:
    """The error that reading ends in: one paragraph, a hint, exit code 2."""
    with pytest.raises(CheckpointError) as caught:
        TrainingTrajectory.read(str(spec), traced)
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in error.message
    assert error.hint
    return error


# ---- what is read


def test_steps_of_a_trainer(run: Path, traced: Checkpoint) -> None:
    trajectory = TrainingTrajectory.read(str(run), traced)
    assert trajectory.steps == tuple(
        TrainingStep(path, rate, step, checkpoint_fingerprint(path))
        for step, rate in RATES.items()
        for path in (run.resolve() / f"checkpoint-{step}",)
    )
    assert trajectory.notes == ()


def test_steps_of_a_list(run: Path, traced: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    steps = TrainingTrajectory.read("checkpoint-12:1e-3,checkpoint-4:0.5", traced).steps
    assert [(step.path.name, step.learning_rate, step.step) for step in steps] == [
        ("checkpoint-12", 1e-3, None),
        ("checkpoint-4", 0.5, None),
    ]
    assert all(step.path.is_absolute() for step in steps)


def test_the_run_s_own_notes_come_through(spoilt: Path, traced: Checkpoint) -> None:
    (spoilt / "checkpoint-best").mkdir()
    (note,) = TrainingTrajectory.read(str(spoilt), traced).notes
    assert "checkpoint-best" in note


def test_the_same_weights_twice_are_noted(spoilt: Path, traced: Checkpoint) -> None:
    shutil.copytree(spoilt / "checkpoint-4", spoilt / "copy")
    spec = f"{spoilt / 'checkpoint-4'}:1e-3,{spoilt / 'copy'}:1e-3"
    (note,) = TrainingTrajectory.read(spec, traced).notes
    assert "same weights" in note


def test_a_usage_error_comes_through(run: Path, traced: Checkpoint) -> None:
    with pytest.raises(UsageError):
        TrainingTrajectory.read(f"{run / 'checkpoint-4'}:-1", traced)


def test_a_checkpoint_needs_no_tokenizer_of_its_own(spoilt: Path, traced: Checkpoint) -> None:
    for file in spoilt.glob("checkpoint-*/tokenizer*"):
        file.unlink()
    assert len(TrainingTrajectory.read(str(spoilt), traced).steps) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"transformers_version": "4.30.0", "use_cache": True},
        {"attn_pdrop": 0.1, "pad_token_id": 3},
        {"architectures": None, "torch_dtype": "bfloat16"},
    ],
)
def test_settings_that_do_not_matter(
    spoilt: Path, traced: Checkpoint, settings: dict[str, Any]
) -> None:
    edit_json(spoilt / BROKEN / "config.json", **settings)
    assert len(TrainingTrajectory.read(str(spoilt), traced).steps) == 3


# ---- what is refused


def test_other_shapes(spoilt: Path, traced: Checkpoint) -> None:
    def shorten(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.wpe.weight"] = stored["transformer.wpe.weight"][:32].clone()

    edit_weights(spoilt / BROKEN, shorten)
    message = refusal(spoilt, traced).message
    assert BROKEN in message
    assert "transformer.wpe.weight is (32, 32), not (64, 32)" in message


def test_a_missing_and_an_unknown_tensor(spoilt: Path, traced: Checkpoint) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    edit_weights(spoilt / BROKEN, lambda stored: stored.pop(name))
    assert f"{name} is missing" in refusal(spoilt, traced).message
    shutil.copytree(spoilt / "checkpoint-4", spoilt / BROKEN, dirs_exist_ok=True)
    (spoilt / BROKEN / "trainer_state.json").write_text(
        '{"log_history": [{"learning_rate": 1, "step": 8}]}'
    )
    edit_weights(spoilt / BROKEN, lambda stored: stored.update({"v_head": torch.ones(1)}))
    assert "v_head is in it alone" in refusal(spoilt, traced).message


@pytest.mark.parametrize("name", ["opt", "qwen2-tied"])
def test_another_architecture(spoilt: Path, traced: Checkpoint, name: str) -> None:
    kit.copied_checkpoint(spoilt / "other", name)
    message = refusal(f"{spoilt / BROKEN}:1,{spoilt / 'other'}:1", traced).message
    assert "another architecture" in message
    assert "'gpt2'" in message
    assert str(spoilt / "other") in message


def test_another_head(spoilt: Path, traced: Checkpoint) -> None:
    edit_json(spoilt / BROKEN / "config.json", architectures=["GPT2DoubleHeadsModel"])
    assert "GPT2DoubleHeadsModel" in refusal(spoilt, traced).message


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_norm_epsilon", 1e-3), ("n_head", 8), ("activation_function", "relu")],
)
def test_settings_that_matter(spoilt: Path, traced: Checkpoint, key: str, value: Any) -> None:
    edit_json(spoilt / BROKEN / "config.json", **{key: value})
    message = refusal(spoilt, traced).message
    assert f"{key} is {value}" in message
    assert BROKEN in message


def test_another_tokenizer(spoilt: Path, traced: Checkpoint) -> None:
    tokenizer = load_checkpoint(spoilt / BROKEN, device="cpu").tokenizer
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(spoilt / BROKEN)
    message = refusal(spoilt, traced).message
    assert f"{BROKEN} has another tokenizer" in message


def damage_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def drop_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def drop_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def pickle_weights(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def truncate_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{nothing")


def add_adapter(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    (directory / "model.safetensors").unlink()  # beside a whole model it is only left over


def damage_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")


def contradict_settings(directory: Path) -> None:
    edit_json(directory / "config.json", n_layer="two")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage_config, "not valid JSON"),
        (drop_config, "no config.json"),
        (drop_weights, "no weights"),
        (pickle_weights, "pickle only"),
        (truncate_weights, "cannot be read"),
        (damage_header, "cannot be read"),
        (add_adapter, "adapter"),
        (damage_tokenizer, "tokenizer"),
        (contradict_settings, "n_layer"),
    ],
)
def test_a_broken_directory(
    spoilt: Path, traced: Checkpoint, break_it: Callable[[Path], None], says: str
) -> None:
    break_it(spoilt / BROKEN)
    error = refusal(spoilt, traced)
    assert BROKEN in error.message
    assert says in error.message
    assert "--model" not in error.hint
