"""A run's checkpoints, put into the traced model in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from haiftrace.checkpoint import weights as stored_weights
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.checkpoint.trajectory import TrainingTrajectory
from haiftrace.errors import CheckpointError
from tests import kit
from tests.checkpoint.checkpoint_kit import save_untrained
from tests.checkpoint.run_samples import RATES, edit_weights
from tests.checkpoint.trajectory_kit import (
    BROKEN,
    identities,
    loaded,
    own_run,  # noqa: F401 (the fixture spoilt)
    same,
    traced_checkpoint,  # noqa: F401 (the fixture traced)
    trainer_run,  # noqa: F401 (the fixture run)
    visit_all,
    weights,
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_each_step_is_in_the_model_and_the_end_is_as_the_beginning(run: Path, dtype: str) -> None:
    traced = load_checkpoint(kit.checkpoint_path(), dtype=dtype, device="cpu")
    model = traced.model
    own, places = weights(model), identities(model)
    trajectory = TrainingTrajectory.read(str(run), traced)
    for _ in range(2):  # as often as wanted
        seen = []
        with trajectory.visiting() as steps:
            for step in steps:
                seen.append(step)
                assert same(model, loaded(step.path, dtype))
                assert not same(model, own)
                assert identities(model) == places
                assert model.lm_head.weight is model.transformer.wte.weight
        assert tuple(seen) == trajectory.steps
        assert same(model, own)
        assert identities(model) == places


@pytest.mark.parametrize("name", ["qwen2-untied", "qwen2-tied", "gpt-neox", "mixtral", "gemma3"])
def test_architectures(name: str, tmp_path: Path) -> None:
    """Untied and tied; files that transformers renames and merges; buffers of no file."""
    save_untrained(tmp_path / "traced", name, kit.checkpoint_path().parent)
    shutil.copytree(tmp_path / "traced", tmp_path / "step")
    edit_weights(tmp_path / "step", lambda stored: [value.mul_(1.5) for value in stored.values()])
    traced = load_checkpoint(tmp_path / "traced", device="cpu")
    own, places = weights(traced.model), identities(traced.model)
    buffers = {key: value.clone() for key, value in traced.model.named_buffers()}
    with TrainingTrajectory.read(f"{tmp_path / 'step'}:1", traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
            assert not same(traced.model, own)
            assert all(torch.equal(v, buffers[k]) for k, v in traced.model.named_buffers())
    assert same(traced.model, own)
    assert identities(traced.model) == places


def without_prefix(directory: Path) -> None:
    """As the first GPT-2's files have it: no "transformer.", and a buffer of masks."""

    def rename(stored: dict[str, torch.Tensor]) -> None:
        for key in list(stored):
            stored[key.removeprefix("transformer.")] = stored.pop(key)
        stored["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    edit_weights(directory, rename)


def test_files_of_an_older_naming(spoilt: Path, tmp_path: Path) -> None:
    own_path = kit.copied_checkpoint(tmp_path / "traced")
    for directory in (own_path, *spoilt.glob("checkpoint-*")):
        without_prefix(directory)
    traced = load_checkpoint(own_path, device="cpu")
    own, places = weights(traced.model), identities(traced.model)
    with TrainingTrajectory.read(str(spoilt), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
            assert not same(traced.model, own)
    assert same(traced.model, own)
    assert identities(traced.model) == places


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that a second model is loaded from."""
    seen: list[Path] = []
    original = stored_weights.load_model

    def spy(directory: Path, dtype: torch.dtype) -> Any:
        seen.append(directory)
        return original(directory, dtype)

    monkeypatch.setattr(stored_weights, "load_model", spy)
    return seen


def test_one_model_is_in_memory(run: Path, traced: Checkpoint, loads: list[Path]) -> None:
    assert len(visit_all(TrainingTrajectory.read(str(run), traced))) == 3
    assert loads == []


def test_only_the_traced_model_has_older_names(
    run: Path, tmp_path: Path, loads: list[Path]
) -> None:
    own_path = kit.copied_checkpoint(tmp_path / "traced")
    without_prefix(own_path)
    traced = load_checkpoint(own_path, device="cpu")
    own = weights(traced.model)
    assert len(visit_all(TrainingTrajectory.read(str(run), traced))) == 3
    assert len(loads) == 5  # before, three steps, after
    assert same(traced.model, own)


def test_a_conversion_under_the_same_names_is_noticed(
    run: Path, traced: Checkpoint, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the files as they are does not reproduce the traced model: transformers loads."""
    original = stored_weights._each_tensor

    def converted(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in original(directory):
            yield name, tensor + name.endswith("c_fc.weight")

    monkeypatch.setattr(stored_weights, "_each_tensor", converted)
    own = weights(traced.model)
    with TrainingTrajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path))
    assert len(loads) == 5
    assert same(traced.model, own)


def test_sharded_weights(spoilt: Path, traced: Checkpoint) -> None:
    directory = spoilt / BROKEN
    model = load_checkpoint(directory, device="cpu").model
    expected = weights(model)
    (directory / "model.safetensors").unlink()
    kit.silently(lambda: model.save_pretrained(directory, max_shard_size="60KB"))
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    with TrainingTrajectory.read(str(spoilt), traced).visiting() as steps:
        comparisons = {step.path.name: same(traced.model, expected) for step in steps}
    assert comparisons == {"checkpoint-4": False, BROKEN: True, "checkpoint-12": False}


def test_files_in_half_precision_are_cast(spoilt: Path, traced: Checkpoint) -> None:
    def halve(stored: dict[str, torch.Tensor]) -> None:
        stored.update({name: value.bfloat16() for name, value in stored.items()})

    edit_weights(spoilt / BROKEN, halve)
    with TrainingTrajectory.read(str(spoilt), traced).visiting() as steps:
        next(steps)
        assert next(steps).path.name == BROKEN
        assert same(traced.model, loaded(spoilt / BROKEN))


def test_a_file_may_hold_a_tied_tensor_under_either_or_both_names(
    spoilt: Path, traced: Checkpoint
) -> None:
    def both(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored["transformer.wte.weight"].clone()

    def other(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored.pop("transformer.wte.weight")

    expected = [loaded(spoilt / f"checkpoint-{step}") for step in RATES]
    edit_weights(spoilt / "checkpoint-4", both)
    edit_weights(spoilt / "checkpoint-12", other)
    own = weights(traced.model)
    with TrainingTrajectory.read(str(spoilt), traced).visiting() as steps:
        assert [same(traced.model, expected[number]) for number, _ in enumerate(steps)] == [
            True
        ] * 3
    assert same(traced.model, own)


def test_a_tie_that_the_step_does_not_have(spoilt: Path, traced: Checkpoint) -> None:
    def untie(stored: dict[str, torch.Tensor]) -> None:
        stored["lm_head.weight"] = stored["transformer.wte.weight"] + 1

    edit_weights(spoilt / BROKEN, untie)
    own = weights(traced.model)
    with pytest.raises(CheckpointError, match=f"{BROKEN} they differ"):
        visit_all(TrainingTrajectory.read(str(spoilt), traced))
    assert same(traced.model, own)


def test_gradients_may_be_computed_meanwhile(run: Path, traced: Checkpoint) -> None:
    """As the engine does; the graph of one step knows nothing of the next."""
    ids = torch.arange(1, 9)[None]

    def gradient(model: PreTrainedModel) -> torch.Tensor:
        loss = model(input_ids=ids, labels=ids).loss
        (grad,) = torch.autograd.grad(loss, model.transformer.h[0].attn.c_attn.weight)
        return grad

    traced.model.requires_grad_(True)
    own = gradient(traced.model)
    with TrainingTrajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            alone = load_checkpoint(step.path, device="cpu").model.requires_grad_(True)
            assert torch.equal(gradient(traced.model), gradient(alone))
    assert torch.equal(gradient(traced.model), own)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu(run: Path, dtype: str) -> None:
    traced = load_checkpoint(kit.checkpoint_path(), dtype=dtype, device="cuda")
    own, places = weights(traced.model), identities(traced.model)
    with TrainingTrajectory.read(str(run), traced).visiting() as steps:
        for step in steps:
            assert same(traced.model, loaded(step.path, dtype))
            assert identities(traced.model) == places
    assert same(traced.model, own)
