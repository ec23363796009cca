"""Report files: which format a path asks for, whether it can be written, and writing it."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from haiftrace.atomic_write import write_atomically
from haiftrace.errors import OutputError
from haiftrace.findings import Report
from haiftrace.reports.comparison_words import with_comparison_said
from haiftrace.reports.figure import render_svg
from haiftrace.reports.html_report import render_html
from haiftrace.reports.json_report import render_json, render_json_lines
from haiftrace.reports.markdown import render_markdown
from haiftrace.reports.sarif import render_sarif

STDOUT = "-"


def _scanning(report: Report) -> str:
    return render_sarif(with_comparison_said(report))


# A format is added by adding its suffix here.
RENDERERS: dict[str, Callable[[Report], str]] = {
    ".json": render_json,
    ".jsonl": render_json_lines,
    ".sarif": _scanning,
    ".html": render_html,
    ".md": render_markdown,
    ".svg": render_svg,
}
# Those that leave something out unless they are asked for all.
_FULL: dict[str, Callable[[Report], str]] = {
    ".json": partial(render_json, full=True),
    ".jsonl": partial(render_json_lines, full=True),
}
_STDOUT_AS = "stdout.json"


def check_outputs(paths: Iterable[str | Path]) -> None:
    """Make sure that each report can be written, before any work is done; leaves nothing behind.

    Args:
        paths: as the user gave them; `-` is JSON on stdout.

    Raises:
        OutputError: an unknown suffix, a directory or another thing that is no plain file, a
            missing or unwritable parent directory, a read-only file, the same path twice.
    """
    seen: dict[str, str] = {}
    for path in paths:
        name = os.fspath(path)
        target = name if name == STDOUT else os.path.realpath(name)
        if target in seen:
            raise OutputError(
                f"Two reports would be written to the same place: '{seen[target]}' and '{name}'.",
                "Give each -o a path of its own.",
            )
        seen[target] = name
        if name != STDOUT:
            _renderer(name)
            _check_target(name, Path(target))


def write_report(report: Report, path: str | Path, *, full: bool = False) -> None:
    """Write a report in the format that the suffix of `path` names; `-` writes JSON to stdout.

    The file is there complete or not at all, replaces a former one, and only its owner may read it
    (mode 0600), since it holds training text. A symbolic link is followed.

    Args:
        full: where the format is JSON, with the evidence of all records and all digits.

    Raises:
        OutputError: an unknown suffix, a report that the format cannot hold, or a failed write.
    """
    name = os.fspath(path)
    if name == STDOUT:
        _write_stdout(_renderer(_STDOUT_AS, full)(report).encode())
        return
    document = _renderer(name, full)(report).encode()
    try:
        write_atomically(Path(os.path.realpath(name)), document)
    except OSError as error:
        raise _unwritable(name, error) from error


def _renderer(name: str, full: bool = False) -> Callable[[Report], str]:
    suffix = Path(name).suffix
    if suffix.lower() in RENDERERS:
        return {**RENDERERS, **(_FULL if full else {})}[suffix.lower()]
    known = ", ".join(RENDERERS)
    given = f"the suffix '{suffix}' of '{name}'" if suffix else f"'{name}' without a suffix"
    raise OutputError(
        f"The format of a report follows from the suffix of its path, and {given} names none "
        f"(known: {known}).",
        "Use for example -o report.json, or -o - for JSON on stdout.",
    )


def _check_target(name: str, target: Path) -> None:
    """Refuse a target that a rename could not or should not replace."""
    try:
        mode = _mode(target)
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(
                f"The report cannot be written: '{name}' is a directory.",
                f"Name a file in it, such as -o {Path(name) / 'findings.json'}.",
            )
        if mode is not None and not stat.S_ISREG(mode):
            raise OutputError(
                f"The report cannot be written: '{name}' exists and is not a plain file.",
                "Choose another path, or -o - for JSON on stdout.",
            )
        if mode is not None and not os.access(target, os.W_OK):
            raise OutputError(
                f"The report cannot be written: '{name}' exists and is read-only.",
                "Choose another path, or make the file writable.",
            )
        parent_mode = _mode(target.parent)
        if parent_mode is None or not stat.S_ISDIR(parent_mode):
            parent = target.parent if Path(name).is_symlink() else Path(name).parent
            raise OutputError(
                f"The report cannot be written: '{parent}' is no directory that exists.",
                f"Create it first: mkdir -p '{parent}'",
            )
        with tempfile.TemporaryFile(dir=target.parent):
            pass  # only a file that was really created proves that one can be
    except OSError as error:
        raise _unwritable(name, error) from error


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _unwritable(name: str, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(
        f"The report cannot be written to '{name}': {reason}.",
        "Choose a path in a directory that you may write to, with space left on its disk.",
    )


def _write_stdout(document: bytes) -> None:
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"The report cannot be written to stdout: {reason}.",
            "Write it to a file with -o report.json.",
        ) from error
