"""Stages that are finished or absent, whatever ended the process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from haiftrace.bench.harness.stages import MARKER, Stages, fingerprint_of
from haiftrace.errors import OutputError
from haiftrace.progress import Silent

VERSIONS = {"haiftrace": "0"}
FORK = multiprocessing.get_context("fork")


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def write(text="x", calls=None):
    def make(directory: Path) -> None:
        if calls is not None:
            calls.append(text)
        (directory / "folder").mkdir()
        (directory / "folder" / "file.txt").write_text(text)

    return make


def killed(run) -> None:
    """Run something in a process that is killed in the middle of it."""
    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def names(work: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in work.iterdir() if path.name[0] != ".")


def test_a_finished_stage_is_kept_and_said(tmp_path):
    said, calls = Said(), []
    for _ in range(3):
        with Stages(tmp_path / "work", VERSIONS, said) as stages:
            stage = stages.stage("data", {"n": 3, "sizes": (1, 2)}, write("hello", calls))
            assert (stage.path / "folder" / "file.txt").read_text() == "hello"
            assert stage.kept is (len(said.lines) > 0)
    assert calls == ["hello"]
    assert said.lines == ["Kept from an earlier run: data."] * 2
    assert stage.path.name == f"data-{stage.fingerprint[:16]}"
    marker = json.loads((stage.path / MARKER).read_text())
    assert marker["settings"] == {"n": 3, "sizes": [1, 2]}
    assert list(marker["files"]) == ["folder/file.txt"]
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700


def test_other_settings_names_or_versions_are_another_stage(tmp_path):
    calls: list[str] = []
    for versions, name, settings in (
        (VERSIONS, "a", {"n": 1}),
        (VERSIONS, "a", {"n": 2}),
        (VERSIONS, "b", {"n": 1}),
        ({"haiftrace": "1"}, "a", {"n": 1}),
    ):
        with Stages(tmp_path, versions, Silent()) as stages:
            assert not stages.stage(name, settings, write(calls=calls)).kept
    assert len(calls) == 4
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})


def test_a_kill_between_stages_loses_nothing(tmp_path):
    def run() -> None:
        with Stages(tmp_path, VERSIONS, Silent()) as stages:
            stages.stage("first", {}, write("1"))
            die()

    killed(run)
    calls: list[str] = []
    with Stages(tmp_path, VERSIONS, Silent()) as stages:
        first = stages.stage("first", {}, write("1", calls))
        stages.stage("second", {"after": first.fingerprint}, write("2", calls))
    assert first.kept
    assert calls == ["2"]
    assert names(tmp_path) == ["first", "second"]


def test_a_kill_inside_a_stage_loses_that_stage_alone(tmp_path):
    def half(directory: Path) -> None:
        (directory / "half.txt").write_text("not all")
        die()

    def run() -> None:
        with Stages(tmp_path, VERSIONS, Silent()) as stages:
            stages.stage("first", {}, write("1"))
            stages.stage("second", {}, half)

    killed(run)
    assert names(tmp_path) == ["first"]
    assert len(list(tmp_path.glob(".second-*.tmp"))) == 1
    with Stages(tmp_path, VERSIONS, Silent()) as stages:
        assert not list(tmp_path.glob(".*.tmp"))
        assert stages.stage("first", {}, write("1")).kept
        second = stages.stage("second", {}, write("2"))
    assert not second.kept
    assert sorted(path.name for path in second.path.iterdir()) == ["folder", MARKER]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_an_error_inside_a_stage_passes_and_leaves_nothing(tmp_path, error):
    def fails(directory: Path) -> None:
        (directory / "half.txt").write_text("not all")
        raise error

    with Stages(tmp_path, VERSIONS, Silent()) as stages, pytest.raises(error):
        stages.stage("data", {}, fails)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stage: (stage / "folder" / "file.txt").write_text("y"),
        lambda stage: (stage / "folder" / "file.txt").unlink(),
        lambda stage: (stage / "more.txt").write_text(""),
        lambda stage: (stage / MARKER).write_text("{"),
        lambda stage: (stage / MARKER).write_text("[]"),
        lambda stage: (stage / MARKER).unlink(),
    ],
)
def test_a_damaged_stage_is_made_again(tmp_path, spoil):
    with Stages(tmp_path, VERSIONS, Silent()) as stages:
        path = stages.stage("data", {}, write()).path
        spoil(path)
        again = stages.stage("data", {}, write())
        assert not again.kept
        assert again.path == path
        assert stages.stage("data", {}, write()).kept


def test_two_processes_do_not_share_a_work_directory(tmp_path):
    with (
        Stages(tmp_path, VERSIONS, Silent()),
        pytest.raises(OutputError, match="Another haiftrace bench"),
    ):
        Stages(tmp_path, VERSIONS, Silent())
    with Stages(tmp_path, VERSIONS, Silent()):
        pass


def test_a_work_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        Stages(tmp_path / "file", VERSIONS, Silent())
    assert "--output" in caught.value.hint
