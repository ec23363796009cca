"""A file that is written atomically: complete, private, and nothing else beside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from haiftrace.atomic_write import replace_atomically, write_atomically


@pytest.fixture(params=[None, ".a.tmp"])
def temporary(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param is None else tmp_path / str(request.param)


def test_a_file_is_replaced_and_private(tmp_path: Path, temporary: Path | None) -> None:
    path = tmp_path / "a"
    path.write_text("former")
    path.chmod(0o644)
    replace_atomically(path, lambda file: file.write(b"new"), temporary=temporary)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_the_former_file(tmp_path: Path, temporary: Path | None) -> None:
    path = tmp_path / "a"
    path.write_text("former")

    def fill(file: BinaryIO) -> None:
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_atomically(path, fill, temporary=temporary)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["a"]


def test_what_an_interrupted_run_left_is_written_over(tmp_path: Path) -> None:
    temporary = tmp_path / ".a.tmp"
    temporary.write_text("longer than what is written now")
    temporary.chmod(0o644)
    replace_atomically(tmp_path / "a", lambda file: file.write(b"new"), temporary=temporary)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / ".a.tmp").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        replace_atomically(
            tmp_path / "a", lambda file: file.write(b"new"), temporary=tmp_path / ".a.tmp"
        )
    assert (tmp_path / "other").read_text() == "other"


def test_the_longest_name(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("a" * 255), b"document")
    assert (tmp_path / ("a" * 255)).read_bytes() == b"document"
    assert len(os.listdir(tmp_path)) == 1
