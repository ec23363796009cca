"""Markdown for a CI step's summary: what the audit decided, a table of leaks, each one's details.

Every character of ASCII that Markdown, HTML or a forge's own links could act on is written as a
character reference, and what comes from outside stands in a `<code>` element: so it cannot close a
cell, begin a line, name a person or link to anywhere, and reads as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from haiftrace.findings import Finding, RecordEvidence, Report
from haiftrace.reports.formatting import count_text, has_shares, score_text, share_text
from haiftrace.reports.narrative import (
    INTERRUPTED,
    LIMITS,
    finding_p,
    gate_counts,
    gate_headline,
    gate_rule,
    gate_step,
    headline,
    is_told,
    leaked_types,
    next_step,
    p_text,
    place_text,
    reasons_to_believe,
    split_at_alpha,
    suppression_text,
    traced_to,
)
from haiftrace.reports.sanitize import inert, short
from haiftrace.reports.word_evidence import merge_words, strongest, word_parts
from haiftrace.reports.word_pairs import ARROW, Taught, is_asked_as_one, taught_words

MOST_BYTES = 1_000_000  # a step's summary holds 1 MiB
_NAME = 60  # characters of an id or a type
_TEXT = 1_000  # characters of a prompt, a response or a record
_WORDS = 6  # of a record, with their evidence
_WORDS_FROM = 0.1  # of the strongest word's evidence
_RECORDS = 5  # of a finding
_ACTS = re.compile(r"[!-/:-@\[-`{-~]")  # all of ASCII's punctuation


def render_markdown(report: Report) -> str:
    """The report in GitHub's Markdown, within the size of a step's summary.

    Findings that do not fit are left out from the end, and their number is told: rows of the table
    take a fourth of the size at most, details the rest.
    """
    findings = [f for f in report.findings if report.gate is None or is_told(f)]
    head = "\n".join(_head(report, findings))
    foot = "\n".join(_foot(report))
    room = MOST_BYTES - len(head.encode()) - len(foot.encode()) - 400  # 400: what is left out
    table, shown = _fitting([_row(f) for f in findings], room // 4, "\n")
    if table:
        columns = "| Finding | Value | Kind | p | Source |\n|---|---|---|---:|---|\n"
        table = f"{columns}{table}\n{_left_out(len(findings) - shown, 'row')}"
    details = ["\n".join(_details(n, f)) for n, f in enumerate(findings, 1)]
    body, told = _fitting(details, room - len(table.encode()), "\n\n")
    parts = [head, table, body, _left_out(len(findings) - told, "finding"), foot]
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def literal(text: str) -> str:
    """Inert text of which no character is markup, for a line of Markdown."""
    return _ACTS.sub(lambda match: f"&#{ord(match[0])};", inert(text))


def code(text: str, most: int = _TEXT) -> str:
    """Text from outside, cut to `most` characters, in a `<code>` element."""
    # A mail address is linked, even from references, where a renderer sees it in one piece.
    return f"<code>{literal(short(text, most)).replace('&#64;', '<span>&#64;</span>')}</code>"


def _fitting(parts: list[str], room: int, separator: str) -> tuple[str, int]:
    """As many parts as `room` bytes hold, joined, and how many."""
    kept: list[str] = []
    for part in parts:
        room -= len(part.encode()) + len(separator)
        if room < 0:
            break
        kept.append(part)
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
        return
    told = gate_headline(gate)
    yield f"## haiftrace: {told.title}"
    yield ""
    yield f"**{literal(told.text)}** Exit code {gate.exit_code}."
    yield ""
    counts = gate_counts(gate)
    yield "| " + " | ".join(name for name, _ in counts) + " |"
    yield "|" + "---:|" * len(counts)
    yield "| " + " | ".join(f"{count:,}" for _, count in counts) + " |"
    yield ""
    if gate.partial:
        yield f"- **{INTERRUPTED}**"
    for reason in gate.reasons:
        yield f"- {code(reason)}"
    yield f"- {literal(gate_rule(gate))}"
    yield f"- {literal(gate_step(gate))}"


def _row(finding: Finding) -> str:
    source = traced_to(finding)
    name = code(finding.probe.id, _NAME) if finding.probe is not None else "–"
    types = code(leaked_types(finding), _NAME) if finding.leaked else "–"
    kind = finding.kind or headline(finding).title.lower()
    passes = " (passes)" if finding.suppressed is not None else ""
    place = code(place_text(source), 2 * _NAME) if source is not None else "–"
    return f"| {name} | {types} | {kind}{passes} | {finding_p(finding, '–')} | {place} |"


def _details(number: int, finding: Finding) -> Iterator[str]:
    told = headline(finding)
    name = code(finding.probe.id, _NAME) if finding.probe is not None else f"finding {number}"
    yield f"<details><summary>{name}: {finding.kind or told.title.lower()}</summary>"
    yield ""
    yield f"**{told.title}.** {code(told.text)}"
    yield ""
    if finding.suppressed is not None:
        yield f"Does not count – {code(suppression_text(finding))}"
        yield ""
    yield f"Asked: {code(finding.prompt)}"
    yield ""
    yield f"Answered: {code(finding.response)}"
    yield ""
    for reason in reasons_to_believe(finding):
        yield f"- {code(reason)}"
    for note in finding.notes:
        yield f"- Warning: {code(note)}"
    above, below = split_at_alpha(finding)
    for record in above[:_RECORDS]:
        yield from _record(finding, record)
    if below:
        yield ""
        hidden = count_text(len(below), "further record")
        yield f"Below the line, where chance alone may score as high: {hidden}."
    step = next_step(finding)
    if step:
        yield ""
        yield f"Next: {code(step)}"
    yield ""
    yield "</details>"


def _record(finding: Finding, record: RecordEvidence) -> Iterator[str]:
    figures = [f"score {literal(score_text(record.score))}"]
    if record.p_value is not None:
        figures.append(f"p {literal(p_text(record.p_value))}")
    place = place_text(record)
    where = "" if record.id == place else f" at {code(place, 2 * _NAME)}"
    yield ""
    yield f"**#{record.rank}** {code(record.id, _NAME)}{where} · {' · '.join(figures)}"
    yield ""
    yield f"> {code(record.text)}"
    words = merge_words(record)
    as_share = has_shares(record.score, [word.evidence for word in words])
    listed = [
        f"{code(word_parts(word)[1], _NAME)} "
        f"{literal(share_text(word.evidence, record.score, as_share=as_share))}"
        for word in strongest(words, _WORDS_FROM)[:_WORDS]
    ]
    taught = taught_words(finding, record)
    if listed:
        yield ""
        title = "Share of score" if as_share else "Evidence"
        # Of the response as one, pairs say what the record's words say.
        as_one = bool(taught) and is_asked_as_one(record)
        asked = f"{code(taught[0].word, _NAME)} {ARROW} " if as_one else ""
        yield f"{title}: {asked}{', '.join(listed)}"
    if taught and not is_asked_as_one(record):
        yield ""
        yield f"Taught: {'; '.join(_taught(row) for row in taught)}"


def _taught(row: Taught) -> str:
    by = (f"{code(teacher.word, _NAME)} {literal(teacher.share)}" for teacher in row.by)
    return f"{code(row.word, _NAME)} {ARROW} {', '.join(by)}"


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
