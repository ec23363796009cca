"""Markdown for a CI step's summary: the decision, a table of leaks, and each one's details.

Sentences are prose and values from outside stand in code, so that it reads as raw text, too; what
could act in either is escaped (`haiftrace.reports.markdown_text`). The table comes first.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len

from haiftrace.findings import Finding, RecordEvidence, Report
from haiftrace.reports.comparison_words import (
    change_text,
    comparison_counts,
    comparison_notes,
    places_text,
)
from haiftrace.reports.evidence_words import record_figures, statistics, strength_text
from haiftrace.reports.formatting import (
    count_text,
    has_percentages,
    percent_text,
)
from haiftrace.reports.gate_memory import gate_gone
from haiftrace.reports.markdown_text import cell, code, prose, summary, table_lines
from haiftrace.reports.named_sources import named_source
from haiftrace.reports.narrative import (
    INTERRUPTED,
    LIMITS,
    asking_notes,
    frequency_text,
    gate_counts,
    gate_headline,
    gate_rule,
    gate_step,
    headline,
    is_reported,
    kind_text,
    leaked_types,
    next_step,
    place_text,
    reasons_to_believe,
    source_text,
    split_at_alpha,
    suppression_text,
)
from haiftrace.reports.word_evidence import merge_words, split_punctuation, strongest
from haiftrace.reports.word_pairs import ARROW, AttributedWord, attributed_words

MOST_BYTES = 1_000_000  # a step's summary holds 1 MiB
_NAME = 60  # characters of an id or a type
_PADDED = 48  # cells of a column at most, in the table's padding
_COLUMNS = ("Finding", "Value", "Class", "Evidence", "Source")
_WORDS = 6  # of a record, with their evidence
_WORDS_FROM = 0.1  # of the strongest word's evidence
_RECORDS = 5  # of a finding


def render_markdown(report: Report) -> str:
    """The report in GitHub's Markdown, within the size of a step's summary.

    Findings that do not fit are left out from the end, and their number is given: rows of the table
    take a fourth of the size at most, details the rest.
    """
    findings = [f for f in report.findings if report.gate is None or is_reported(f)]
    title = "\n".join(_title(report, findings))
    head = "\n".join(_head(report, findings))
    foot = "\n".join(_foot(report))
    # 600: what is left out, and the table's head.
    room = MOST_BYTES - sum(len(block.encode()) for block in (title, head, foot)) - 600
    compared, room = _comparison(report, room)
    table, rows = _fitting([_row(f) for f in findings], room // 4)
    shown = table_lines(_COLUMNS, table)
    left_out = _left_out(len(findings) - rows, "row") if findings else ""
    details = ["\n".join(_details(n, f)) for n, f in enumerate(findings, 1)]
    body, described = _described(details, room - len(shown.encode()))
    blocks = [title, compared, shown if findings else "", left_out, head, body]
    blocks += [_left_out(len(findings) - described, "finding"), foot]
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def _fitting(rows: list[list[str]], room: int) -> tuple[list[list[str]], int]:
    """The first rows of a table that `room` bytes hold with their padding, and their number."""
    kept: list[list[str]] = []
    for row in rows:
        padding = sum(max(_PADDED - cell_len(text), 0) for text in row)
        room -= sum(len(text.encode()) for text in row) + padding + 3 * len(row) + 2
        if room < 0:
            break
        kept.append(row)
    return kept, len(kept)


def _described(blocks: list[str], room: int) -> tuple[str, int]:
    """The first blocks that `room` bytes hold, joined, and their number."""
    kept: list[str] = []
    for block in blocks:
        room -= len(block.encode()) + 2
        if room < 0:
            break
        kept.append(block)
    return "\n\n".join(kept), len(kept)


def _left_out(count: int, what: str) -> str:
    if not count:
        return ""
    return f"_{count_text(count, f'further {what}')} left out for size: see the JSON report._"


def _title(report: Report, findings: list[Finding]) -> Iterator[str]:
    gate = report.gate
    if gate is None:
        title = headline(findings[0]).title if len(findings) == 1 else "Leak trace"
        yield f"## haiftrace: {title}"
        yield ""
        yield f"{count_text(len(findings), 'traced response')}."
    else:
        decision = gate_headline(gate)
        yield f"## haiftrace: {decision.title}"
        yield ""
        yield f"**{prose(decision.text)}** Exit code {gate.exit_code}."


def _head(report: Report, findings: list[Finding]) -> Iterator[str]:
    gate = report.gate
    if gate is not None:
        counts = [f"{name} {count:,}" for name, count in gate_counts(gate) if count]
        yield f"- {' · '.join(counts) or 'nothing was asked'}"
        if gate.partial:
            yield f"- **{INTERRUPTED}**"
        for reason in (*gate.reasons, *gate_gone(gate), gate_rule(gate)):
            yield f"- {prose(reason)}"
        yield f"- Next: {prose(gate_step(gate))}"
    for note, option in asking_notes(findings):
        yield ""
        yield f"**Warning:** {prose(note)}{f' {code(option)}' if option else ''}"


def _comparison(report: Report, room: int) -> tuple[str, int]:
    """What has changed since an earlier report, and the room that is left; "" without one."""
    comparison = report.comparison
    if comparison is None:
        return "", room
    rows = [
        [
            leak.state,
            cell(leak.probe, _NAME),
            cell(leak.type, _NAME),
            cell(leak.value, _NAME),
            prose(change_text(leak)),
            cell(places_text(leak), 2 * _NAME),
        ]
        for leak in comparison.leaks
    ]
    kept, count = _fitting(rows, room // 4)
    lines = [f"### Against the earlier report: {comparison_counts(comparison)}", ""]
    lines += [f"- {prose(note)}" for note in comparison_notes(comparison, report)]
    if kept:
        lines += ["", table_lines(("", "Finding", "Value", "Shown as", "Class", "Source"), kept)]
    if count < len(rows):
        lines += ["", _left_out(len(rows) - count, "row")]
    shown = "\n".join(lines)
    return shown, room - len(shown.encode())


def _row(finding: Finding) -> list[str]:
    source = named_source(finding)
    passes = " (passes)" if finding.suppressed is not None else ""
    return [
        cell(finding.probe.id, _NAME) if finding.probe is not None else "–",
        cell(leaked_types(finding), _NAME) if finding.leaked else "–",
        f"{kind_text(finding)}{passes}",
        strength_text(finding),
        cell(source_text(source), 2 * _NAME) if source is not None else "–",
    ]


def _details(number: int, finding: Finding) -> Iterator[str]:
    said = headline(finding)
    name = summary(finding.probe.id, _NAME) if finding.probe is not None else f"finding {number}"
    yield f"<details><summary>{name}: {kind_text(finding)}</summary>"
    yield ""
    yield f"**{said.title}.** {prose(said.text)}"
    yield ""
    yield f"- Asked: {code(finding.prompt)}"
    yield f"- Answered: {code(finding.response)}"
    if finding.suppressed is not None:
        yield f"- Does not count – {prose(suppression_text(finding))}"
    if finding.fingerprint is not None:
        yield f"- Fingerprint: {code(finding.fingerprint, _NAME)}"
    often = frequency_text(finding)
    if often:
        yield f"- Said {prose(often)}"
    for reason in reasons_to_believe(finding):
        yield f"- {prose(reason)}"
    for note in finding.notes:
        yield f"- Warning: {prose(note)}"
    step = next_step(finding)
    if step:
        yield f"- Next: {prose(step)}"
    above, below = split_at_alpha(finding)
    for record in above[:_RECORDS]:
        yield from _record(record)
    if below:
        yield ""
        hidden = count_text(len(below), "further record")
        yield f"Below, where chance alone may score as high: {hidden}."
    yield ""
    yield "<details><summary>The figures behind it</summary>"
    yield ""
    for figure in (*statistics(finding), *map(record_figures, above[:_RECORDS])):
        yield f"- {prose(figure)}"
    yield ""
    yield "</details>"
    yield ""
    yield "</details>"


def _record(record: RecordEvidence) -> Iterator[str]:
    place = place_text(record)
    where = "" if record.id == place else f" at {code(place, 2 * _NAME)}"
    yield ""
    yield f"**#{record.rank}** {code(record.id, _NAME)}{where}"
    yield ""
    yield f"> {code(record.text)}"
    words = merge_words(record)
    as_percent = has_percentages(record.score, [word.evidence for word in words])
    listed = [
        f"{code(split_punctuation(word)[1], _NAME)} "
        f"{percent_text(word.evidence, record.score, as_percent=as_percent)}"
        for word in strongest(words, _WORDS_FROM)[:_WORDS]
    ]
    if listed:
        yield ""
        title = "Share of score" if as_percent else "Evidence"
        yield f"{title}: {', '.join(listed)}"
    attributed = attributed_words(record)
    if attributed:
        yield ""
        yield f"Taught: {'; '.join(_attributed(row) for row in attributed)}"


def _attributed(row: AttributedWord) -> str:
    sources = (f"{code(source.text, _NAME)} {source.percent}" for source in row.sources)
    return f"{code(row.text, _NAME)} {ARROW} {', '.join(sources)}"


def _foot(report: Report) -> Iterator[str]:
    yield "<details><summary>How it was made, and what it can say</summary>"
    yield ""
    if report.command:
        yield f"- Command: {code(report.command)}"
    yield f"- Checkpoint: {code(report.model.path)}, weights {code(report.model.fingerprint)}"
    yield f"- Index: {code(report.index.path)}, corpus {code(report.index.corpus_fingerprint)}"
    for limit in LIMITS:
        yield f"- {prose(limit)}"
    state = "masked" if report.masked else "shown as they are: keep this text safe"
    yield f"- Private values are {state}."
    yield ""
    yield "</details>"
