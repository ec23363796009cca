"""What `--checkpoints` names: directories and learning rates, and how nonsense is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from haiftrace.checkpoint.training_run import RunStep, read_run
from haiftrace.errors import CheckpointError, HaiftraceError, UsageError
from tests.checkpoint.run_samples import REAL_LOG_HISTORY, log, write_state


def refusal(spec: object, kind: type[HaiftraceError]) -> HaiftraceError:
    """The error that a spec ends in: one paragraph, a hint, exit code 2."""
    with pytest.raises(HaiftraceError) as caught:
        read_run(str(spec))
    error = caught.value
    assert type(error) is kind
    assert error.exit_code == 2
    assert error.message
    assert "\n" not in error.message
    assert error.hint
    return error


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty directories a and b, and one with a colon, in the working directory."""
    for name in ("a", "b", "run:2"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


# ---- a list


def test_a_list_keeps_its_order_and_knows_no_steps(places: Path) -> None:
    run = read_run("b:1e-3, a : 5e-4")
    assert run.steps == (RunStep(places / "b", 1e-3, None), RunStep(places / "a", 5e-4, None))
    assert run.notes == ()


def test_a_path_may_contain_a_colon(places: Path) -> None:
    run = read_run(f"{places}/run:2:1e-3,a:1")
    assert [step.path.name for step in run.steps] == ["run:2", "a"]
    assert [step.learning_rate for step in run.steps] == [1e-3, 1.0]


def test_home_is_expanded(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(places))
    assert read_run("~/a:1").steps[0].path == places / "a"


@pytest.mark.parametrize("spec", ["a,b:1", "b:1,a", "run:2,a:1", "b:1,run:2"])
def test_a_directory_without_its_rate(places: Path, spec: str) -> None:
    error = refusal(spec, UsageError)
    assert "without its learning rate" in error.message
    assert "PATH:LR" in error.hint


@pytest.mark.parametrize("rate", ["fast", "", "1e", "0x1"])
def test_a_rate_that_is_no_number(places: Path, rate: str) -> None:
    assert "not a number" in refusal(f"a:{rate}", UsageError).message


@pytest.mark.parametrize("rate", ["-1e-3", "nan", "inf", "-inf", "1e999"])
def test_a_rate_out_of_range(places: Path, rate: str) -> None:
    message = refusal(f"a:{rate},b:1", UsageError).message
    assert rate in message
    assert "positive and finite" in message


def test_a_rate_of_zero_in_a_list_is_a_mistake(places: Path) -> None:
    assert "count for nothing" in refusal("a:0,b:1", UsageError).message


@pytest.mark.parametrize("spec", ["a:1,", ",a:1", "a:1,,b:1", ":1", ","])
def test_an_empty_entry(places: Path, spec: str) -> None:
    assert "names no path" in refusal(spec, UsageError).message


@pytest.mark.parametrize("again", ["a:2", "./a:1", "b/../a:1", "link:1"])
def test_the_same_directory_twice(places: Path, again: str) -> None:
    (places / "link").symlink_to("a")
    assert "twice" in refusal(f"a:1,b:1,{again}", UsageError).message


@pytest.mark.parametrize("spec", ["c", "", " ", "c:1", "a:1,c:1"])
def test_no_such_directory(places: Path, spec: str) -> None:
    assert "no directory" in refusal(spec, CheckpointError).message


def test_a_file_is_no_checkpoint(places: Path) -> None:
    (places / "file").touch()
    refusal("file", CheckpointError)
    refusal("file:1", CheckpointError)


# ---- a directory of the Trainer


def rates(directory: Path) -> list[tuple[int | None, float]]:
    return [(step.step, step.learning_rate) for step in read_run(str(directory)).steps]


def test_the_trainer_s_own_log(tmp_path: Path) -> None:
    """Logged at steps 3, 6, 9 and 12, among evaluations; saved at 4, 8 and 12."""
    for step in (4, 8, 12):
        seen = [entry for entry in REAL_LOG_HISTORY if entry["step"] <= step]
        write_state(tmp_path / f"checkpoint-{step}", step, seen)
    run = read_run(str(tmp_path))
    assert run.steps == tuple(
        RunStep((tmp_path / f"checkpoint-{step}").resolve(), rate, step)
        for step, rate in ((4, 5e-4), (8, 3.5e-4), (12, 5e-5))
    )
    (note,) = run.notes
    assert "checkpoint-4 (step 3), checkpoint-8 (step 6)" in note
    assert "checkpoint-12" not in note


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (1000, 90, 200):
        write_state(tmp_path / f"checkpoint-{step}", step, [log(step, 1 / step)])
    assert rates(tmp_path) == [(90, 1 / 90), (200, 1 / 200), (1000, 1 / 1000)]


def test_a_relative_directory_with_a_colon_in_its_name(places: Path) -> None:
    write_state(places / "run:2" / "checkpoint-1", 1, [log(1, 0.5)])
    assert read_run("run:2").steps == (RunStep(places / "run:2" / "checkpoint-1", 0.5, 1),)


def test_later_logs_do_not_count_and_of_two_of_one_step_the_later_does(tmp_path: Path) -> None:
    history = [log(5, 0.5), log(5, 0.4), log(10, 0.3), log(2, 0.9)]
    write_state(tmp_path / "checkpoint-7", 7, history)
    assert rates(tmp_path) == [(7, 0.4)]


def test_whole_numbers_are_rates_too(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-1", 1, [log(1, 1)])
    assert rates(tmp_path) == [(1, 1.0)]


def test_a_rate_of_zero_counts_for_nothing(tmp_path: Path) -> None:
    for step, rate in ((1, 0.0), (2, 0.5), (3, 0)):
        write_state(tmp_path / f"checkpoint-{step}", step, [log(step, rate)])
    run = read_run(str(tmp_path))
    assert [step.step for step in run.steps] == [2]
    (note,) = run.notes
    assert "checkpoint-1, checkpoint-3" in note
    assert "count for nothing" in note


def test_a_rate_of_zero_everywhere_is_refused(tmp_path: Path) -> None:
    for step in (1, 2):
        write_state(tmp_path / f"checkpoint-{step}", step, [log(step, 0.0)])
    assert "learning rate 0" in refusal(tmp_path, CheckpointError).message


def test_a_zero_logged_earlier_tells_nothing(tmp_path: Path) -> None:
    """A warm-up begins with 0 at step 1; the rate at step 400 is another."""
    write_state(tmp_path / "checkpoint-400", 400, [log(1, 0.0)])
    error = refusal(tmp_path, CheckpointError)
    assert "step 400" in error.message
    assert "PATH:LR" in error.hint


def test_other_names_are_ignored_with_a_note(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [log(4, 0.5)])
    for name in ("checkpoint-best", "checkpoint-4-old", "checkpoint-08", "checkpoint-", "final"):
        write_state(tmp_path / name, 4, [log(4, 0.25)])
    (tmp_path / "checkpoint-12").touch()  # a file
    run = read_run(str(tmp_path))
    assert [step.step for step in run.steps] == [4]
    (note,) = run.notes
    for name in ("checkpoint-best", "checkpoint-4-old", "checkpoint-08", "checkpoint-12"):
        assert name in note
    assert "final" not in note


@pytest.mark.parametrize("inner", [None, "checkpoint-best", "step-4"])
def test_a_directory_without_checkpoints(tmp_path: Path, inner: str | None) -> None:
    if inner:
        write_state(tmp_path / inner, 4, [log(4, 0.5)])
    error = refusal(tmp_path, CheckpointError)
    assert "no checkpoint-STEP" in error.message
    assert ("checkpoint-best" in error.message) == (inner == "checkpoint-best")
    assert "PATH:LR" in error.hint


def test_no_trainer_state(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [log(4, 0.5)])
    (tmp_path / "checkpoint-8").mkdir()
    error = refusal(tmp_path, CheckpointError)
    assert "checkpoint-8 has no trainer_state.json" in error.message
    assert "PATH:LR" in error.hint


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"", b"null"])
def test_broken_trainer_state(tmp_path: Path, content: bytes) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [])
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-4/trainer_state\.json") as caught:
        read_run(str(tmp_path))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("history", [None, {}, "log"])
def test_no_log_history(tmp_path: Path, history: Any) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [])
    file = tmp_path / "checkpoint-4" / "trainer_state.json"
    file.write_text(json.dumps({"global_step": 4, "log_history": history}))
    assert "log_history" in refusal(tmp_path, CheckpointError).message


@pytest.mark.parametrize("history", [[], [{"loss": 1.0, "step": 4}], [log(5, 0.1)], ["text", 3]])
def test_no_rate_at_this_step_or_before(tmp_path: Path, history: list[Any]) -> None:
    write_state(tmp_path / "checkpoint-4", 4, history)
    error = refusal(tmp_path, CheckpointError)
    assert "checkpoint-4" in error.message
    assert "no learning rate at step 4 or before" in error.message
    assert "PATH:LR,PATH:LR" in error.hint


@pytest.mark.parametrize(
    "rate", [-1e-4, float("nan"), float("inf"), "1e-4", None, True, [1e-4], 10**400]
)
def test_an_impossible_rate(tmp_path: Path, rate: Any) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [log(4, rate)])
    error = refusal(tmp_path, CheckpointError)
    assert "checkpoint-4" in error.message
    assert "at step 4 the learning rate" in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("step", [None, "4", 4.0, True])
def test_a_rate_without_a_step(tmp_path: Path, step: Any) -> None:
    write_state(tmp_path / "checkpoint-4", 4, [{"learning_rate": 0.1, "step": step}])
    assert "without its step" in refusal(tmp_path, CheckpointError).message


def test_a_renamed_checkpoint(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-4", 8, [log(4, 0.5)])
    assert "of step 8, not of step 4" in refusal(tmp_path, CheckpointError).message


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, haiftrace.checkpoint.training_run, haiftrace.checkpoint.trajectory;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
