"""The HTML report: one file for people, readable without its script, with nothing from elsewhere.

The template shows views, which hold inert strings only; it escapes every one of them. The script
reads what the page shows, and writes text only: no markup is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from haiftrace.findings import Finding, Report, Source
from haiftrace.reports.formatting import count_text
from haiftrace.reports.gate_memory import gate_gone
from haiftrace.reports.marks import PrivateValues
from haiftrace.reports.narrative import (
    INTERRUPTED,
    KIND_MEANS,
    LIMITS,
    Headline,
    asking_notes,
    gate_counts,
    gate_headline,
    gate_rule,
    gate_step,
    is_reported,
)
from haiftrace.reports.page.assets import asset, policy
from haiftrace.reports.page.comparison_view import comparison_view
from haiftrace.reports.page.corpus_map import corpus_map
from haiftrace.reports.page.extent import MOST_FINDINGS, extent_of
from haiftrace.reports.page.finding_view import clean_view, finding_view
from haiftrace.reports.page.leaking_records import leaking_records, remedy, tally_of
from haiftrace.reports.page.places import Places
from haiftrace.reports.page.run_view import made_rows
from haiftrace.reports.page.views import FindingView
from haiftrace.reports.sanitize import inert

_OPEN = 3
"""Findings of a report that is short enough to have all of them open."""
_PRINTED = 100
"""Findings of a report of which each is printed; of more, those that are open."""


def render_html(report: Report) -> str:
    """The report as an HTML document with its style and script in it, and nothing else to load."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    private = PrivateValues(report.findings, masked=report.masked)
    reported = [f for f in report.findings if report.gate is None or is_reported(f)]
    clean = [f for f in report.findings if report.gate is not None and not is_reported(f)]
    shown = reported[:MOST_FINDINGS]
    places = Places(_sources(reported))
    extent = extent_of(len(reported))
    views = [finding_view(number, f, private, places, extent) for number, f in enumerate(shown, 1)]
    records = leaking_records(enumerate(reported, 1), places)
    counting = [finding for finding in reported if finding.suppressed is None]
    document = environment.get_template("report.html.j2").render(
        policy=Markup(policy()),
        style=Markup(asset("report.css")),
        script=Markup(asset("report.js")),
        title=_title(report),
        top=_top(report, views),
        tally=tally_of(counting, len(leaking_records(enumerate(counting, 1), places))),
        gate=report.gate,
        counts=gate_counts(report.gate) if report.gate is not None else (),
        gate_lines=_gate_lines(report),
        compared=comparison_view(report),
        asking=[tuple(map(inert, said)) for said in asking_notes(report.findings)],
        findings=views,
        left_out=len(reported) - len(shown),
        are_open=len(views) <= _OPEN,
        are_printed=len(views) <= _PRINTED,
        records=records,
        strips=corpus_map(records, report.index.records),
        all_records=report.index.records,
        remedy=remedy(report, records),
        clean=[clean_view(finding) for finding in clean],
        made=made_rows(report),
        settings=[(inert(k), inert(str(v))) for k, v in sorted(report.settings.items())],
        command=inert(report.command),
        has_pairs=any(record.pairs for f in shown for record in f.records),
        masked=report.masked,
        limits=LIMITS,
        kinds=KIND_MEANS,
    )
    # Whatever is left that no encoding holds has been made inert; this asserts it.
    document.encode()
    return document


def _sources(findings: Sequence[Finding]) -> Iterator[Source]:
    for finding in findings:
        yield from (record.source for record in finding.records)
        yield from (holder.source for holder in finding.holders or ())


def _title(report: Report) -> str:
    return "Leak audit" if report.gate is not None else "Leak trace"


def _top(report: Report, views: list[FindingView]) -> Headline:
    """The first thing to read: the gate's decision, the one verdict, or how many there are."""
    if report.gate is not None:
        return gate_headline(report.gate)
    if len(views) == 1:
        return views[0].summary
    if not views:
        return Headline("Nothing was traced", "The report holds no finding.", "unsure")
    titles = [view.summary.title for view in views]
    counts = [f"{titles.count(title):,} {title.lower()}" for title in dict.fromkeys(titles)]
    tone = "leak" if "Traced" in titles else "unsure"
    return Headline(count_text(len(views), "finding"), f"{', '.join(counts)}.", tone)


def _gate_lines(report: Report) -> list[str]:
    gate = report.gate
    if gate is None:
        return []
    lines = [inert(reason) for reason in (*gate.reasons, *gate_gone(gate))]
    if gate.partial:
        lines.append(INTERRUPTED)
    return [*lines, gate_rule(gate), gate_step(gate)]
