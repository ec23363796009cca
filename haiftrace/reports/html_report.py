"""The HTML report: one file for people, without scripts, without anything from elsewhere.

The template shows views, which hold inert strings only; it escapes every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from haiftrace.findings import Finding, RecordEvidence, Report
from haiftrace.reports.evidence_words import (
    record_figures,
    says_readily,
    statistics,
    strength_text,
)
from haiftrace.reports.formatting import clip, count_text, score_text, size_text
from haiftrace.reports.gate_memory import gate_gone
from haiftrace.reports.histogram import Picture, picture
from haiftrace.reports.marks import (
    PrivateValues,
    Segment,
    level,
    peak_evidence,
    record_segments,
    text_segments,
)
from haiftrace.reports.narrative import (
    INTERRUPTED,
    KIND_MEANS,
    LIMITS,
    Headline,
    asking_notes,
    clears,
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
from haiftrace.reports.word_pairs import RESPONSE_WORD_CELLS, attributed_words

_LONGEST_TEXT = 20_000  # characters of a prompt or response; the JSON report holds all of it
_LONGEST_NAME = 80  # characters of an id or a type


@dataclass(frozen=True)
class PairView:
    """A word of the response; (word, percentage, level) of the record's words that taught it."""

    word: str
    sources: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class RecordView:
    """A ranked record: its name, its figures, its text in segments, what taught which word."""

    rank: int
    name: str
    place: str
    figures: tuple[tuple[str, str], ...]
    is_clear: bool
    details: str
    segments: tuple[Segment, ...]
    pairs: tuple[PairView, ...]


@dataclass(frozen=True)
class FindingView:
    """A traced response; `above` and `below` are its records by alpha, `figures` for the fold."""

    number: int
    name: str
    badge: str
    tone: str
    types: str
    summary: Headline
    evidence: str
    reasons: tuple[str, ...]
    figures: tuple[str, ...]
    step: str
    passes: str
    notes: tuple[str, ...]
    prompt: tuple[Segment, ...]
    response: tuple[Segment, ...]
    facts: tuple[str, ...]
    strength: str
    source: str
    above: tuple[RecordView, ...]
    below: tuple[RecordView, ...]
    line: str
    null: Picture | None
    null_text: str


@dataclass(frozen=True)
class CleanView:
    """A probe without a leak."""

    name: str
    prompt: str
    response: str


def render_html(report: Report) -> str:
    """The report as an HTML document with its style in it, and nothing else to load."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    private = PrivateValues(report.findings, masked=report.masked)
    reported = [f for f in report.findings if report.gate is None or is_reported(f)]
    clean = [f for f in report.findings if report.gate is not None and not is_reported(f)]
    views = [_finding(number, f, private) for number, f in enumerate(reported, 1)]
    document = environment.get_template("report.html.j2").render(
        title=_title(report),
        top=_top(report, views),
        gate=report.gate,
        counts=gate_counts(report.gate) if report.gate is not None else (),
        gate_lines=_gate_lines(report),
        asking=[tuple(map(inert, said)) for said in asking_notes(report.findings)],
        findings=views,
        clean=[_clean(finding) for finding in clean],
        made=_made(report),
        settings=[(inert(k), inert(str(v))) for k, v in sorted(report.settings.items())],
        command=inert(report.command),
        has_pairs=any(record.pairs for f in reported for record in f.records),
        masked=report.masked,
        limits=LIMITS,
        kinds=KIND_MEANS,
    )
    # Whatever is left that no encoding holds has been made inert; this asserts it.
    document.encode()
    return document


def _template(name: str) -> str:
    return files("haiftrace.reports").joinpath("templates", name).read_text(encoding="utf-8")


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


def _finding(number: int, finding: Finding, private: PrivateValues) -> FindingView:
    summary = headline(finding)
    verdict = finding.verdict
    above, _ = split_at_alpha(finding)
    peak = peak_evidence(finding.records)
    views = [_record(record, finding, peak, private) for record in finding.records]
    source = traced_to(finding)
    probe = finding.probe
    reasons = [inert(reason) for reason in reasons_to_believe(finding)]
    histogram = picture(verdict) if verdict is not None else None
    return FindingView(
        number=number,
        name=_name(probe.id) if probe is not None else f"finding {number}",
        badge=kind_text(finding),
        tone=summary.tone,
        types=_name(leaked_types(finding)),
        summary=Headline(summary.title, inert(summary.text), summary.tone),
        evidence=reasons[0] if reasons else "",
        reasons=tuple(reasons[1:]),
        figures=tuple(inert(figure) for figure in _figures(finding)),
        step=inert(next_step(finding)),
        passes=inert(suppression_text(finding)),
        notes=tuple(inert(note) for note in finding.notes),
        prompt=tuple(text_segments(_cut(finding.prompt), None, private)),
        response=tuple(text_segments(_cut(finding.response), finding.span, private)),
        facts=tuple(_facts(finding)),
        strength=strength_text(finding),
        source="" if source is None else inert(place_text(source)),
        above=tuple(views[: len(above)]),
        below=tuple(views[len(above) :]),
        line=f"alpha {verdict.alpha:g}" if verdict is not None else "",
        null=histogram,
        null_text=_null_text(finding) if histogram is not None else "",
    )


def _facts(finding: Finding) -> list[str]:
    extent = "all of the response" if finding.span is None else "the underlined part"
    facts = [
        f"traced: {extent}",
        "generated" if finding.generated else "given",
        *(f"said {often}" for often in [frequency_text(finding)] if often),
        says_readily(finding),
    ]
    if finding.probe is not None and finding.probe.path is not None:
        line = "" if finding.probe.line is None else f":{finding.probe.line}"
        facts.append(f"probe from {inert(finding.probe.path)}{line}")
    if finding.fingerprint is not None:
        facts.append(f"fingerprint {inert(finding.fingerprint)}")
    return facts


def _figures(finding: Finding) -> list[str]:
    """What the fold holds: the verdict's figures, each record's, and the method."""
    return [*statistics(finding), *map(record_figures, finding.records), _scored(finding)]


def _scored(finding: Finding) -> str:
    reach = "all" if finding.exhaustive else "a shortlist of"
    return f"Method {finding.method}: {reach} {count_text(finding.scored, 'record window')} scored."


def _null_text(finding: Finding) -> str:
    """The picture in words, for who cannot see it."""
    verdict = finding.verdict
    if verdict is None or verdict.null is None:
        return ""
    value = "" if verdict.value is None else f"; this response is at {verdict.value:.3g}"
    return f"Histogram of {count_text(verdict.null.samples, 'control')} without a source{value}."


def _record(
    record: RecordEvidence, finding: Finding, peak: float, private: PrivateValues
) -> RecordView:
    figures = [("score", score_text(record.score))]
    details = []
    if record.windows > 1:
        details.append(f"best of {record.windows} windows, from token {record.window_start}")
    if record.content_hash is not None:
        details.append(f"sha256 {inert(record.content_hash)[:16]}")
    place = place_text(record)
    return RecordView(
        rank=record.rank,
        name=_name(record.id),
        place="" if record.id == place else inert(place),
        figures=tuple(figures),
        is_clear=finding.verdict is not None and clears(record, finding),
        details=" · ".join(details),
        segments=tuple(record_segments(record, peak, private)),
        pairs=tuple(
            PairView(
                clip(inert(row.text), RESPONSE_WORD_CELLS),
                tuple(
                    (_name(source.text), source.percent, level(source.strength, 1.0))
                    for source in row.sources
                ),
            )
            for row in attributed_words(record)
        ),
    )


def _clean(finding: Finding) -> CleanView:
    name = _name(finding.probe.id) if finding.probe is not None else "-"
    return CleanView(name, inert(_cut(finding.prompt)), inert(_cut(finding.response)))


def _made(report: Report) -> list[tuple[str, str]]:
    """What the report was made from and with, for a table."""
    model, index = report.model, report.index
    parameters = f"{size_text(model.parameters)} parameters"
    traced = f"{size_text(model.traced_parameters)} traced ({model.scope})"
    rows = [
        ("Checkpoint", model.path),
        ("Model", f"{model.architecture}, {parameters}, {traced}, {model.dtype}"),
        ("Weights", model.fingerprint),
        ("Index", index.path),
        (
            "Corpus",
            f"{count_text(index.records, 'record')}, {count_text(index.windows, 'window')},"
            f" {count_text(index.tokens, 'label token')}",
        ),
        ("Corpus fingerprint", index.corpus_fingerprint),
        ("Made by", f"haiftrace {report.tool_version} in {report.seconds:.1f} s"),
    ]
    return [(name, inert(value)) for name, value in rows]


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}…"


def _name(text: str) -> str:
    """Inert text that fits a heading."""
    return short(text, _LONGEST_NAME)
