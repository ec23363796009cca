"""`haiftrace report`: reports that were written, rendered again, merged and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from haiftrace.commands.delivery import deliver
from haiftrace.commands.options import Option
from haiftrace.errors import EXIT_CLEAN, UsageError

if TYPE_CHECKING:
    from haiftrace.findings import Report


def report(
    reports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPORT...",
            help="JSON or JSONL reports, - for stdin; several are shards of one audit.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        Option(
            "--output",
            "-o",
            help="Write the report here, by suffix: .json, .jsonl, .sarif, .html, .md, .svg (a"
            " figure); - is JSON on stdout; repeatable.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        Option(
            help="An earlier report, or shards of one: say which leaks are gone, new and still"
            " there; repeatable."
        ),
    ] = None,
    finding: Annotated[
        str | None, Option(help="Only the findings of this fingerprint or probe's id.")
    ] = None,
    exit_code: Annotated[
        bool,
        Option("--exit-code", help="Exit as the audit does: 1 for leaks, 3 where that is open."),
    ] = False,
    reveal: Annotated[
        bool,
        Option(
            "--reveal", help="Show private values, where the reports hold them; SARIF never does."
        ),
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Show each finding of an audit, and the figures.")
    ] = False,
    full: Annotated[
        bool,
        Option("--full", help="Show long records whole; in JSON all evidence that there is."),
    ] = False,
    below: Annotated[
        bool, Option("--all", help="Show the records that chance alone may rank, too.")
    ] = False,
) -> int:
    """Render JSON reports in other formats, merge the shards of an audit, compare two.

    \b
    haiftrace report audit.json -o audit.html -o audit.md
    haiftrace report shard-1.json shard-2.json -o audit.json --exit-code
    haiftrace report after.json --against before.json
    """
    if not reports:
        raise typer.BadParameter("Missing argument 'REPORT...'.")
    if finding is not None and against is not None:
        raise UsageError(
            "--finding and --against exclude each other: a comparison is of whole reports.",
            "Give one of them.",
        )
    from dataclasses import replace

    from haiftrace.auditing.merged_report import chosen_findings
    from haiftrace.auditing.report_comparison import compare_reports
    from haiftrace.privacy import mask_report
    from haiftrace.reports import check_outputs

    paths = list(output or ())
    check_outputs(paths)
    shown = _merged(reports, reveal)
    earlier = None if against is None else _merged(against, reveal)
    if finding is not None:
        shown = chosen_findings(shown, finding)
    masked = shown if shown.masked else mask_report(shown)
    if earlier is not None:
        earlier_masked = earlier if earlier.masked else mask_report(earlier)
        shown = replace(shown, comparison=compare_reports(earlier, shown))
        masked = replace(masked, comparison=compare_reports(earlier_masked, masked))
    deliver(shown, masked, paths, full=full, below=below, verbose=verbose)
    return shown.gate.exit_code if exit_code and shown.gate is not None else EXIT_CLEAN


def _merged(paths: list[str], reveal: bool) -> Report:
    """The report of all files; masked unless the values are there and wanted."""
    from haiftrace.auditing.merged_report import merged_report
    from haiftrace.privacy import mask_report
    from haiftrace.reports.loaded_report import read_reports

    named = [(report, path) for path in paths for report in read_reports(path)]
    for report, path in named if reveal else ():
        if report.masked:
            raise UsageError(
                f"The report '{path}' is masked: the private values are not in it.",
                "Leave --reveal out, or trace again with --reveal -o report.json.",
            )
    read = [report if reveal or report.masked else mask_report(report) for report, _ in named]
    return merged_report(read, [path for _, path in named])
