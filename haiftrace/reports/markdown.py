"""Markdown for a CI step's summary: what the audit decided, a table of leaks, each one's details.

Every character of ASCII that Markdown, HTML or a forge's own links could act on is written as a
character reference, and what comes from outside stands in a `<code>` element: so it cannot close a
cell, begin a line, name a person or link to anywhere, and reads as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from haiftrace.findings import Finding, RecordEvidence, Report
from haiftrace.reports.evidence_words import record_figures, statistics, strength_text
from haiftrace.reports.formatting import (
    count_text,
    has_percentages,
    percent_text,
)
from haiftrace.reports.gate_memory import gate_gone
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
    split_at_alpha,
    suppression_text,
    traced_to,
)
from haiftrace.reports.sanitize import inert, short
from haiftrace.reports.word_evidence import merge_words, split_punctuation, strongest
from haiftrace.reports.word_pairs import ARROW, AttributedWord, attributed_words

MOST_BYTES = 1_000_000  # a step's summary holds 1 MiB
_NAME = 60  # characters of an id or a type
_TEXT = 1_000  # characters of a prompt, a response or a record
_WORDS = 6  # of a record, with their evidence
_WORDS_FROM = 0.1  # of the strongest word's evidence
_RECORDS = 5  # of a finding
_ACTS = re.compile(r"[!-/:-@\[-`{-~]")  # all of ASCII's punctuation


def render_markdown(report: Report) -> str:
    """The report in GitHub's Markdown, within the size of a step's summary.

    Findings that do not fit are left out from the end, and their number is given: rows of the table
    take a fourth of the size at most, details the rest.
    """
    findings = [f for f in report.findings if report.gate is None or is_reported(f)]
    head = "\n".join(_head(report, findings))
    foot = "\n".join(_foot(report))
    room = MOST_BYTES - len(head.encode()) - len(foot.encode()) - 400  # 400: what is left out
    table, rows = _fitting([_row(f) for f in findings], room // 4, "\n")
    if table:
        columns = "| Finding | Value | Kind | Evidence | Source |\n|---|---|---|---|---|\n"
        table = f"{columns}{table}\n{_left_out(len(findings) - rows, 'row')}"
    details = ["\n".join(_details(n, f)) for n, f in enumerate(findings, 1)]
    body, described = _fitting(details, room - len(table.encode()), "\n\n")
    blocks = [head, table, body, _left_out(len(findings) - described, "finding"), foot]
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def literal(text: str) -> str:
    """Inert text of which no character is markup, for a line of Markdown."""
    return _ACTS.sub(lambda match: f"&#{ord(match[0])};", inert(text))


def code(text: str, most: int = _TEXT) -> str:
    """Text from outside, cut to `most` characters, in a `<code>` element."""
    # A mail address is linked, even from references, where a renderer sees it in one piece.
    return f"<code>{literal(short(text, most)).replace('&#64;', '<span>&#64;</span>')}</code>"


def _fitting(blocks: list[str], room: int, separator: str) -> tuple[str, int]:
    """The first blocks that `room` bytes hold, joined, and their number."""
    kept: list[str] = []
    for block in blocks:
        room -= len(block.encode()) + len(separator)
        if room < 0:
            break
        kept.append(block)
    return separator.join(kept), len(kept)


def _left_out(count: int, what: str) -> str:
    if not count:
        return ""
    return f"\n_{count_text(count, f'further {what}')} left out for size: see the JSON report._\n"


def _head(report: Report, findings: list[Finding]) -> Iterator[str]:
    gate = report.gate
    if gate is None:
        title = headline(findings[0]).title if len(findings) == 1 else "Leak trace"
        yield f"## haiftrace: {title}"
        yield ""
        yield f"{count_text(len(findings), 'traced response')}."
        yield from _asking(findings)
        return
    decision = gate_headline(gate)
    yield f"## haiftrace: {decision.title}"
    yield ""
    yield f"**{literal(decision.text)}** Exit code {gate.exit_code}."
    yield ""
    counts = gate_counts(gate)
    yield "| " + " | ".join(name for name, _ in counts) + " |"
    yield "|" + "---:|" * len(counts)
    yield "| " + " | ".join(f"{count:,}" for _, count in counts) + " |"
    yield ""
    if gate.partial:
        yield f"- **{INTERRUPTED}**"
    for reason in (*gate.reasons, *gate_gone(gate)):
        yield f"- {code(reason)}"
    yield f"- {literal(gate_rule(gate))}"
    yield f"- {literal(gate_step(gate))}"
    yield from _asking(findings)


def _asking(findings: list[Finding]) -> Iterator[str]:
    for note, option in asking_notes(findings):
        yield ""
        yield f"**Warning:** {literal(note)}{f' {code(option)}' if option else ''}"


def _row(finding: Finding) -> str:
    source = traced_to(finding)
    name = code(finding.probe.id, _NAME) if finding.probe is not None else "–"
    types = code(leaked_types(finding), _NAME) if finding.leaked else "–"
    kind = kind_text(finding)
    passes = " (passes)" if finding.suppressed is not None else ""
    place = code(place_text(source), 2 * _NAME) if source is not None else "–"
    return f"| {name} | {types} | {kind}{passes} | {strength_text(finding)} | {place} |"


def _details(number: int, finding: Finding) -> Iterator[str]:
    summary = headline(finding)
    name = code(finding.probe.id, _NAME) if finding.probe is not None else f"finding {number}"
    yield f"<details><summary>{name}: {kind_text(finding)}</summary>"
    yield ""
    yield f"**{summary.title}.** {code(summary.text)}"
    yield ""
    if finding.suppressed is not None:
        yield f"Does not count – {code(suppression_text(finding))}"
        yield ""
    if finding.fingerprint is not None:
        yield f"Fingerprint: {code(finding.fingerprint, _NAME)}"
        yield ""
    yield f"Asked: {code(finding.prompt)}"
    yield ""
    yield f"Answered: {code(finding.response)}"
    yield ""
    often = frequency_text(finding)
    if often:
        yield f"Said {code(often)}"
        yield ""
    for reason in reasons_to_believe(finding):
        yield f"- {code(reason)}"
    for note in finding.notes:
        yield f"- Warning: {code(note)}"
    above, below = split_at_alpha(finding)
    for record in above[:_RECORDS]:
        yield from _record(record)
    if below:
        yield ""
        hidden = count_text(len(below), "further record")
        yield f"Below, where chance alone may score as high: {hidden}."
    step = next_step(finding)
    if step:
        yield ""
        yield f"Next: {code(step)}"
    yield ""
    yield "<details><summary>The figures behind it</summary>"
    yield ""
    for figure in (*statistics(finding), *map(record_figures, above[:_RECORDS])):
        yield f"- {code(figure)}"
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
        f"{literal(percent_text(word.evidence, record.score, as_percent=as_percent))}"
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
    sources = (f"{code(source.text, _NAME)} {literal(source.percent)}" for source in row.sources)
    return f"{code(row.text, _NAME)} {ARROW} {', '.join(sources)}"


def _foot(report: Report) -> Iterator[str]:
    yield "<details><summary>How it was made, and what it can say</summary>"
    yield ""
    if report.command:
        yield f"- Command: {code(report.command)}"
    yield f"- Checkpoint: {code(report.model.path)}, weights {code(report.model.fingerprint)}"
    yield f"- Index: {code(report.index.path)}, corpus {code(report.index.corpus_fingerprint)}"
    for limit in LIMITS:
        yield f"- {literal(limit)}"
    state = "masked" if report.masked else "shown as they are: keep this text safe"
    yield f"- Private values are {state}."
    yield ""
    yield "</details>"
