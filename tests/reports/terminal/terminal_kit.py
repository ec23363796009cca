"""What the tests of the terminal report share: how it is drawn, and what no line of it may hold."""

from __future__ import annotations

import io
import re

from rich.console import Console
from rich.style import Style

from haiftrace.findings import Report
from haiftrace.reports import render_terminal

SGR = re.compile(r"\x1b\[[0-9;]*m")
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def rendered(
    report: Report,
    *,
    width: int = 80,
    colour: bool = False,
    full: bool = False,
    below: bool = False,
    verbose: bool = False,
    environ: dict[str, str] | None = None,
) -> str:
    # rich keeps a style's codes as the first console of the process needed them, whatever the next
    # one's colours.
    Style.parse.cache_clear()
    Style._add.cache_clear()
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        _environ=environ if environ is not None else {"TERM": "xterm-256color"},
    )
    render_terminal(report, console, full=full, below=below, verbose=verbose)
    return out.getvalue()
