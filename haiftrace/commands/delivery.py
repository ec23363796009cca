"""A report to wherever it is wanted: files, stdout, the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haiftrace.findings import Report


def deliver(
    report: Report,
    masked: Report,
    paths: Sequence[str],
    *,
    full: bool = False,
    below: bool = False,
    verbose: bool = False,
) -> None:
    """Writes the report wherever it is wanted; SARIF is always masked.

    Args:
        masked: the same report, masked.
        paths: of files, by suffix, `-` for JSON on stdout, which else is for people.
        full, below, verbose: how much is shown.
    """
    from rich.console import Console

    from haiftrace.reports import render_terminal, write_report

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which means that a leak was found

    # Files first, whatever becomes of stdout.
    for path in sorted(paths, key=lambda path: path == "-"):
        shown = masked if path.lower().endswith(".sarif") else report
        write_report(shown, path, full=full)
    if "-" not in paths:
        render_terminal(report, Terminal(), full=full, below=below, verbose=verbose)
