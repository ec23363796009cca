"""The report that a person reads in a terminal.

Everything that comes from a model or a corpus is made inert first and then put into
`rich.text.Text`; markup is never built from it. Evidence is shown by colour and, for who has none,
by brackets, signs and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath

from rich.console import Console
from rich.text import Text

from haiftrace.findings import Finding, RecordEvidence, Report
from haiftrace.reports.evidence_words import says_readily, statistics
from haiftrace.reports.formatting import (
    count_text,
    size_text,
)
from haiftrace.reports.narrative import frequency_text, next_step, split_at_alpha
from haiftrace.reports.terminal.against_view import print_comparison
from haiftrace.reports.terminal.audit_view import print_audit
from haiftrace.reports.terminal.comparison import by_leak, rank_table
from haiftrace.reports.terminal.flow import Unit
from haiftrace.reports.terminal.page import INDENT, Page, facts, print_warning
from haiftrace.reports.terminal.record_view import record_head, record_text
from haiftrace.reports.terminal.verdict_block import print_asking, print_verdict, response_units
from haiftrace.reports.word_evidence import (
    WordEvidence,
    merge_words,
)
from haiftrace.reports.word_pairs import ARROW


def render_terminal(
    report: Report,
    console: Console,
    *,
    full: bool = False,
    below: bool = False,
    verbose: bool = False,
) -> None:
    """Print a report for reading: verdict, why to believe it, source, tokens, next step.

    An audit is a line for each leak, and what its gate decides; with `verbose` also a block each.
    A comparison with an earlier report comes first.

    Args:
        report: of a trace or an audit.
        console: where to; without colour (`NO_COLOR`, `TERM=dumb`, no terminal) not one ANSI code
            is written, and characters that its encoding lacks are spelled in ASCII.
        full: show long texts uncut instead of what stands around their strongest words.
        below: show the records that do not clear alpha too, faintly.
        verbose: show the figures behind the words.
    """
    page = Page(console, full, verbose)
    print_asking(page, report.findings)
    if report.comparison is not None:
        print_comparison(page, report.comparison, report)
        page.blank()
    if report.gate is not None:
        _head(page, report)
        print_audit(page, report.findings, report.gate)
        _signature(page, report)
        return
    leaks = list(by_leak(report.findings))
    # One verdict is the first thing to read; more of them stand under a common head.
    is_single = len(report.findings) == 1 and report.findings[0].verdict is not None
    if not is_single:
        _head(page, report)
    for number, findings in enumerate(leaks, start=1):
        if not is_single:
            page.blank()
        if len(leaks) > 1:
            page.rule(f"leak {number} of {len(leaks)}")
            page.blank()
        _leak(page, findings, below)
    if not report.findings:
        page.blank()
        page.line(Text("Nothing was traced: the report holds no finding."))
    if is_single:
        page.blank()
        _head(page, report)
    _foot(page, report)


def _head(page: Page, report: Report) -> None:
    model, index = report.model, report.index
    name = PurePath(model.path).name or model.path
    page.entry(
        "Model",
        facts(
            page,
            name,
            model.architecture,
            f"{size_text(model.parameters)} parameters, {size_text(model.traced_parameters)} "
            f"traced, {model.dtype}",
        ),
    )
    page.entry(
        "Index",
        facts(
            page,
            index.path,
            count_text(index.records, "record"),
            count_text(index.tokens, "token"),
            f"scope {model.scope}",
        ),
    )


def _leak(page: Page, findings: Sequence[Finding], below: bool) -> None:
    """A traced response, and the records that each method ranks for it."""
    if len(findings) == 1:
        (finding,) = findings
        print_verdict(page, finding)
        if finding.verdict is not None:
            page.blank()
        _traced(page, finding)
        _result(page, finding, below)
        return
    _traced(page, findings[0])
    page.blank()
    page.line(Text("Ranks of the records that any method puts first:", "bold"))
    for line in rank_table(findings, page.width - INDENT):
        page.line(Text(" " * INDENT + page.show(line)))
    for finding in findings:
        page.blank()
        page.rule(finding.method)
        print_verdict(page, finding)
        _result(page, finding, below)


def _traced(page: Page, finding: Finding) -> None:
    prompt, _ = page.cut(page.words(finding.prompt))
    page.entry("Prompt", prompt or [Unit("(empty)", "dim")])
    response, _ = page.cut(list(response_units(page, finding)))
    page.entry("Response", response or [Unit("(empty)", "dim")])
    extent = "all of the response" if finding.span is None else "the part in brackets"
    origin = "generated" if finding.generated else "given"
    page.entry("Traced", facts(page, extent, origin, says_readily(finding)))
    often = frequency_text(finding)
    if often:
        page.entry("Said", page.words(often))
    if page.verbose and finding.verdict is None:
        page.entry("Figures", page.words(" ".join(statistics(finding))))


def _result(page: Page, finding: Finding, below: bool) -> None:
    name = () if finding.fingerprint is None else (finding.fingerprint,)
    if page.verbose:
        page.entry("Method", facts(page, finding.method, _scored(finding), *name))
    elif name:
        page.entry("Leak", facts(page, *name))
    for note in finding.notes:
        print_warning(page, note)
    if not finding.records:
        page.blank()
        page.line(Text("No record was found for this response.", "bold"))
    best_score = max((record.score for record in finding.records), default=0.0)
    texts = [(record, merge_words(record)) for record in finding.records]
    peak = max((abs(word.evidence) for _, words in texts for word in words), default=0.0)
    above, under = split_at_alpha(finding)
    for record, words in texts[: len(above)]:
        page.blank()
        record_head(page, record, best_score)
        record_text(page, record, words, peak)
    if under:
        _below_the_line(page, finding, texts[len(above) :], best_score, shown=below)
    step = next_step(finding)
    if step:
        page.blank()
        page.entry("Next", page.words(step))


def _below_the_line(
    page: Page,
    finding: Finding,
    texts: Sequence[tuple[RecordEvidence, Sequence[WordEvidence]]],
    best_score: float,
    *,
    shown: bool,
) -> None:
    """The rule under the last record that clears alpha; what is below it, faint, if `shown`."""
    assert finding.verdict is not None  # else no line is drawn
    clear = len(finding.records) - len(texts)
    page.blank()
    alpha = f" (alpha {finding.verdict.alpha:g})" if page.verbose else ""
    page.rule(f"{'above' if clear else 'nothing'} stands out from chance{alpha}")
    if not shown:
        hidden = count_text(len(texts), "record")
        page.block(page.words(f"{hidden} below it: chance alone may score as high (--all)", "dim"))
        return
    with page.faint():
        for record, words in texts:
            page.blank()
            record_head(page, record, best_score)
            record_text(page, record, words, math.inf)


def _scored(finding: Finding) -> str:
    windows = count_text(finding.scored, "record window")
    reach = f"all {windows}" if finding.exhaustive else f"a shortlist of {windows}"
    return f"{reach} scored exactly"


def _foot(page: Page, report: Report) -> None:
    page.blank()
    if any(finding.records for finding in report.findings):
        legend = "[word +31%] carries 31% of its record's score; a minus is against the record."
        if page.styled:
            legend += " The deeper the shade, the stronger, over all records."
        if any(record.pairs for finding in report.findings for record in finding.records):
            legend += f" answer {ARROW} record: a word of the answer, and what taught it."
        page.entry("Legend", page.words(legend, "dim"))
    _signature(page, report)


def _signature(page: Page, report: Report) -> None:
    page.entry("", page.words(f"haiftrace {report.tool_version}, {report.seconds:.1f} s", "dim"))
