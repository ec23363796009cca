"""Report files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from haiftrace.errors import EXIT_ERROR, OutputError
from haiftrace.reports import check_outputs, outputs, write_report
from haiftrace.reports.json_report import render_json
from tests.reports.report_samples import report_of, whole_report


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refused(*paths: str | Path) -> OutputError:
    with pytest.raises(OutputError) as caught:
        check_outputs(paths)
    assert caught.value.exit_code == EXIT_ERROR
    assert caught.value.hint
    return caught.value


def test_good_outputs_pass_and_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("kept")
    check_outputs([tmp_path / "a.json", str(tmp_path / "B.JSON"), tmp_path / "old.json", "-"])
    check_outputs([])
    assert names(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    assert "'.pdf'" in refused(tmp_path / "a.pdf").message
    assert ".json" in refused(tmp_path / "a.pdf").message
    assert "without a suffix" in refused(tmp_path / "report").message
    assert "without a suffix" in refused("").message
    with pytest.raises(OutputError):
        write_report(report_of(), tmp_path / "a.pdf")
    assert names(tmp_path) == []


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    assert "is a directory" in refused(tmp_path / "d.json").message
    assert "not a plain file" in refused(tmp_path / "pipe.json").message


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(tmp_path / "none" / "a.json")
    assert "mkdir -p" in error.hint
    assert str(tmp_path / "none") in error.message
    refused(tmp_path / "file" / "a.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "gone" / "a.json")
    assert str(tmp_path / "gone") in refused(tmp_path / "link.json").message
    refused(tmp_path / ("x" * 300 + ".json"))


def test_an_unwritable_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert "read-only" in refused(tmp_path / "a.json").message

    def forbid(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", forbid)
    assert "Permission denied" in refused(tmp_path / "new.json").message


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        refused(tmp_path / "a.json")
    finally:
        tmp_path.chmod(0o700)


def test_the_same_path_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "same place" in refused("a.json", "./a.json").message
    assert "same place" in refused("a.json", tmp_path / "a.json").message
    refused("-", "-")
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    refused("a.json", "link.json")


def test_a_report_is_written_whole_private_and_over_a_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("former")
    path.chmod(0o644)
    write_report(whole_report(), path)
    assert path.read_text(encoding="utf-8") == render_json(whole_report())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["a.json"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "deep" / "real.json")
    check_outputs([tmp_path / "link.json"])
    write_report(report_of(), str(tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "deep" / "real.json").read_text())["findings"] == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_former_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    path = tmp_path / "a.json"
    path.write_text("former")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_report(report_of(), path)
    if isinstance(caught.value, OutputError):
        assert "No space left" in caught.value.message
    assert names(tmp_path) == ["a.json"]
    assert path.read_text() == "former"


def test_a_report_that_cannot_be_rendered_touches_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report(replace(report_of(), seconds=math.nan), tmp_path / "a.json")
    assert names(tmp_path) == []


def test_a_dash_is_json_on_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_report(whole_report(), "-")
    out, err = capfdbinary.readouterr()
    assert out == render_json(whole_report()).encode()
    assert err == b""


def test_a_closed_stdout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed_pipe:
        monkeypatch.setattr("sys.stdout", closed_pipe)
        with pytest.raises(OutputError, match="stdout"):
            write_report(whole_report(), "-")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed_pipe.fileno())


def test_a_format_is_added_by_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(outputs.RENDERERS, ".txt", lambda report: f"{len(report.findings)} found\n")
    check_outputs([tmp_path / "a.txt", tmp_path / "a.json"])
    write_report(whole_report(), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == f"{len(whole_report().findings)} found\n"
