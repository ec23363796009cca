"""The end of a visit to a run's checkpoints, whatever ended it; and files that change meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.checkpoint.trajectory import TrainingStep, TrainingTrajectory
from haiftrace.errors import CheckpointError
from tests import kit
from tests.checkpoint.run_samples import edit_weights, noisy_checkpoint
from tests.checkpoint.trajectory_kit import (
    BROKEN,
    own_run,  # noqa: F401 (the fixture spoilt)
    same,
    traced_checkpoint,  # noqa: F401 (the fixture traced)
    trainer_run,  # noqa: F401 (the fixture run)
    visit_all,
    weights,
)

# ---- the end of a visit, whatever ended it


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_after_an_exception(run: Path, traced: Checkpoint, kind: type[BaseException]) -> None:
    own = weights(traced.model)

    def fail_at_step_8() -> None:
        with TrainingTrajectory.read(str(run), traced).visiting() as steps:
            for step in steps:
                if step.step == 8:
                    assert not same(traced.model, own)
                    raise kind

    with pytest.raises(kind):
        fail_at_step_8()
    assert same(traced.model, own)


def test_after_a_break_and_the_iterator_refuses_to_go_on(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)
    with TrainingTrajectory.read(str(run), traced).visiting() as steps:
        for _ in steps:
            break
        assert not same(traced.model, own)
    assert same(traced.model, own)
    with pytest.raises(RuntimeError, match="visit is over"):
        next(steps)
    assert same(traced.model, own)


def test_in_an_abandoned_generator(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)

    def along() -> Iterator[TrainingStep]:
        with TrainingTrajectory.read(str(run), traced).visiting() as steps:
            yield from steps

    walking = along()
    next(walking)
    assert not same(traced.model, own)
    del walking
    assert same(traced.model, own)


def test_nothing_is_touched_before_the_first_step(run: Path, traced: Checkpoint) -> None:
    versions = [parameter._version for parameter in traced.model.parameters()]
    with TrainingTrajectory.read(str(run), traced).visiting():
        pass
    assert [parameter._version for parameter in traced.model.parameters()] == versions


def test_a_visit_within_a_visit_is_refused(run: Path, traced: Checkpoint) -> None:
    own = weights(traced.model)
    trajectory = TrainingTrajectory.read(str(run), traced)
    with trajectory.visiting() as steps:
        next(steps)
        with pytest.raises(CheckpointError, match="other weights"), trajectory.visiting():
            pass
    assert same(traced.model, own)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_numbers_name_the_step(spoilt: Path, traced: Checkpoint, value: float) -> None:
    def spoil(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.h.1.attn.c_attn.weight"][2, 5] = value

    edit_weights(spoilt / BROKEN, spoil)
    own = weights(traced.model)
    trajectory = TrainingTrajectory.read(str(spoilt), traced)  # the headers are sound
    seen = []
    with pytest.raises(CheckpointError) as caught, trajectory.visiting() as steps:
        seen.extend(step.step for step in steps)
    assert BROKEN in caught.value.message
    assert "1 of 3072 entries of transformer.h.1.attn.c_attn.weight" in caught.value.message
    assert "PATH:LR" in caught.value.hint
    assert same(traced.model, own)


def test_numbers_too_large_for_the_model_s_dtype(spoilt: Path, traced: Checkpoint) -> None:
    def enlarge(stored: dict[str, torch.Tensor]) -> None:
        stored["transformer.ln_f.weight"] = stored["transformer.ln_f.weight"].double() * 1e300

    edit_weights(spoilt / BROKEN, enlarge)
    with pytest.raises(CheckpointError, match=r"transformer\.ln_f\.weight"):
        visit_all(TrainingTrajectory.read(str(spoilt), traced))


# ---- files that change meanwhile


def test_a_step_that_changes_after_it_was_read(spoilt: Path, traced: Checkpoint) -> None:
    trajectory = TrainingTrajectory.read(str(spoilt), traced)
    edit_weights(spoilt / BROKEN, lambda stored: stored["transformer.wte.weight"].mul_(2))
    own = weights(traced.model)
    with pytest.raises(CheckpointError, match=f"{BROKEN} have changed"):
        visit_all(trajectory)
    shutil.rmtree(spoilt / BROKEN)
    with pytest.raises(CheckpointError, match=BROKEN):
        visit_all(trajectory)
    assert same(traced.model, own)


def test_a_traced_model_that_is_not_that_of_its_files(run: Path, tmp_path: Path) -> None:
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")
    trajectory = TrainingTrajectory.read(str(run), traced)
    with torch.no_grad():
        traced.model.transformer.ln_f.bias[0] += 1
    changed = weights(traced.model)
    with pytest.raises(CheckpointError, match="other weights than its files"):
        visit_all(trajectory)
    assert same(traced.model, changed)  # refused before anything is overwritten


def test_a_traced_model_whose_files_change(run: Path, tmp_path: Path) -> None:
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")
    noisy_checkpoint(tmp_path / "other", 0.5)
    trajectory = TrainingTrajectory.read(str(run), traced)

    def change_within() -> None:
        with trajectory.visiting() as steps:
            next(steps)
            shutil.copy(tmp_path / "other" / "model.safetensors", traced.path)

    with pytest.raises(CheckpointError, match="traced have changed"):
        change_within()
    with pytest.raises(CheckpointError, match="traced have changed"):
        visit_all(trajectory)


def test_no_file_is_written(spoilt: Path, tmp_path: Path) -> None:
    """Weights may be mapped from their files: copying over them must not reach the disk."""
    traced = load_checkpoint(kit.copied_checkpoint(tmp_path / "traced"), device="cpu")

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = content()
    visit_all(TrainingTrajectory.read(str(spoilt), traced))
    assert content() == before
