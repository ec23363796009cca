"""Use case: probes × checkpoint × index -> leaks, where they come from, and a gate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from haiftrace.auditing.corpus_probes import probes_from_corpus
from haiftrace.auditing.gate import GateSettings, decide
from haiftrace.auditing.judgement import judged
from haiftrace.auditing.probe_asking import plan_probes, prompting_of
from haiftrace.auditing.probes import ProbeCase
from haiftrace.auditing.sampled import answers, distinct
from haiftrace.errors import UsageError
from haiftrace.findings import Finding, Frequency, PrivateValue, Report
from haiftrace.methods import find_methods
from haiftrace.privacy import DetectionSettings, ValueIndex, canonical, detect
from haiftrace.progress import Progress
from haiftrace.query.query import Query, given_query
from haiftrace.store import Index
from haiftrace.tracing.asking import AskingPlan
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer


@dataclass(frozen=True)
class AuditResult:
    """A report with what its texts must not show: also the values of probes without a leak."""

    report: Report
    values: tuple[str, ...]


@dataclass(frozen=True)
class _ValueLeak:
    """A leak before it is traced: a private value in an answer."""

    case: ProbeCase
    query: Query
    value: PrivateValue
    frequency: Frequency | None = None


def leaked_values(case: ProbeCase, prompt: str, response: str) -> list[PrivateValue]:
    """The private values that a response holds, as they stand in it: given, then detected ones.

    A value that stands there twice counts once, and a value within a given one not at all.
    """
    spans: list[tuple[int, int, PrivateValue]] = []
    given = case.probe.protected
    matches = ValueIndex(value.value for value in given).find(response, words=True)
    for match in sorted(matches, key=lambda m: (m.start - m.end, m.start)):
        text = response[match.start : match.end]
        spans.append((match.start, match.end, PrivateValue(given[match.value].type, text)))
    for detected in detect(response, prompt, case.detection) if case.detect else ():
        text = response[detected.start : detected.end]
        leaked = PrivateValue(detected.type, text, given=False)
        spans.append((detected.start, detected.end, leaked))
    kept: list[tuple[int, int, PrivateValue]] = []
    for start, end, value in spans:
        if all(end <= a or b <= start for a, b, _ in kept):
            kept.append((start, end, value))
    distinct: list[PrivateValue] = []
    for _, _, value in sorted(kept, key=itemgetter(0)):
        if not ValueIndex(v.value for v in distinct).find(value.value):
            distinct.append(value)
    return distinct


def audit(
    tracer: Tracer,
    cases: Sequence[ProbeCase],
    settings: TraceSettings,
    gate: GateSettings,
    progress: Progress,
    command: str = "",
) -> AuditResult:
    """Puts every probe to the model, traces the private values in its answers, and decides.

    An interruption ends it early; the report then has what is known, and its gate is partial.
    """
    began = time.monotonic()
    methods = find_methods(settings.method)
    leaks: list[_ValueLeak] = []
    findings: list[Finding] = []
    unanswered = 0
    partial = False
    tried = 0
    asked: list[str] = []
    extracted: set[int | None] = set()
    plan = plan_probes(tracer, cases, settings.prompting)
    if plan.said:
        progress.say(plan.said)
    try:
        progress.start("asking the model", float(len(cases)))
        for case in cases:
            if case.group is not None and case.group in extracted:
                progress.advance(1.0)
                continue
            answer = _answer(tracer, case, plan)
            tried += 1
            if answer is None:
                unanswered += 1
            else:
                asked.append(case.probe.id)
            if answer:
                extracted.add(case.group)
            leaks += answer or ()
            progress.advance(1.0)
        traced = [value_leak(leak.case, leak.query, leak.value) for leak in leaks]
        traces = tracer.trace_all(traced, settings, progress)
        for leak, of_leak in zip(leaks, traces, strict=True):
            findings += [_of_probe(finding, leak) for finding in of_leak]
    except KeyboardInterrupt:
        partial = True
        progress.say("Interrupted: the report has what was found so far.")
    complete = len(findings) // len(methods)
    findings += [_untraced(leak, methods[0].name) for leak in leaks[complete:]]
    values = tuple(value.value for case in cases for value in case.probe.protected)
    report = tracer.report_of(findings, settings, command, time.monotonic() - began)
    report, known = judged(plan.with_asking(report), tracer.index, values, gate, asked)
    reasons = _extraction(cases, leaks)
    if plan.warning and not report.findings:  # which would say it
        reasons.append(plan.warning)
    decided = decide(report.findings, gate, tried, unanswered, partial, reasons, known)
    return AuditResult(replace(report, gate=decided), values)


def corpus_cases(
    tracer: Tracer,
    count: int,
    seed: int,
    answer: int,
    detection: DetectionSettings | None = None,
) -> list[ProbeCase]:
    """Probes for private values of the index's corpus; see `probes_from_corpus`.

    Args:
        answer: tokens that an answer may have, for which a prompt leaves room.
        detection: what detectors look for.
    """
    checkpoint = tracer.checkpoint
    context = checkpoint.context or 1024
    most = max(4, min(context - answer, 3 * context // 4))

    def tokens(text: str) -> int:
        return len(checkpoint.tokenizer(text, verbose=False)["input_ids"])

    windows = tracer.index.iter_windows()
    return probes_from_corpus(windows, count, seed, tokens, most, detection)


def with_leaks(
    report: Report, case: ProbeCase, index: Index, gate: GateSettings, gated: bool
) -> Report:
    """The report of a single prompt, with what leaks in its response or in the traced span.

    Args:
        gated: decide, too.
    """
    findings = []
    for finding in report.findings:
        leaked = leaked_values(case, finding.prompt, finding.response)
        if finding.span is not None:
            span = ValueIndex([finding.span])
            leaked = [
                value
                for value in leaked
                if span.find(value.value) or ValueIndex([value.value]).find(finding.span)
            ]
        probe = case.probe if gated else None
        findings.append(replace(finding, leaked=tuple(leaked), probe=probe, asked=case.asked))
    values = [value.value for value in case.probe.protected]
    report = replace(report, findings=tuple(findings))
    report, known = judged(report, index, values, gate, [case.probe.id])
    if not gated:
        return report
    return replace(report, gate=decide(report.findings, gate, 1, baseline=known))


def _answer(tracer: Tracer, case: ProbeCase, plan: AskingPlan) -> list[_ValueLeak] | None:
    """The leaks in the answer to a probe; None where the model cannot be given it."""
    checkpoint = tracer.checkpoint
    prompting = replace(prompting_of(plan, case, checkpoint), as_it_stands=True)
    if case.response is not None and not case.response.strip():
        return []

    def values(query: Query) -> list[tuple[str, PrivateValue]]:
        leaked = leaked_values(case, query.prompt, query.response)
        return [(canonical(value.value).text, value) for value in leaked]

    try:
        if case.response is None:
            said = distinct(answers(tracer, case.prompt, prompting), values)
            return [_ValueLeak(case, each.query, each.part, each.frequency) for each in said]
        query = given_query(checkpoint, case.prompt, case.response, prompting, None)
    except UsageError:
        return None
    return [_ValueLeak(case, query, value) for _, value in values(query)]


def value_leak(case: ProbeCase, query: Query, value: PrivateValue) -> Leak:
    """A response of which a value alone is traced."""
    labels = span_labels(query, value.value)
    if not any(labels):
        return Leak(case.prompt, query=query)
    return Leak(case.prompt, query=replace(query, labels=labels, span=value.value))


def span_labels(query: Query, span: str) -> list[bool]:
    """[T] True where a token has a character of a span of the response, and one stands before."""
    start = query.response.find(span)
    labels, at = [], -_response_start(query)
    for piece in query.pieces:
        labels.append(at < start + len(span) and start < at + len(piece) and at + len(piece) > 0)
        at += len(piece)
    labels[:1] = [False]
    return labels


def _response_start(query: Query) -> int:
    """Where in the joined pieces the response begins: it is what they end with."""
    joined = "".join(query.pieces)
    at = joined.rfind(query.response)
    if at >= 0:
        return at
    # A stop text may follow in the last piece, or white space be missing from the pieces.
    first = next((i for i, label in enumerate(query.labels) if label), 0)
    return sum(map(len, query.pieces[:first]))


def _of_probe(finding: Finding, leak: _ValueLeak) -> Finding:
    of_probe = replace(finding, probe=leak.case.probe, asked=leak.case.asked)
    return replace(of_probe, leaked=(leak.value,), frequency=leak.frequency)


def _extraction(cases: Sequence[ProbeCase], leaks: Sequence[_ValueLeak]) -> list[str]:
    """How many values of the corpus were tried, and how many of them the model completes."""
    types = {c.group: c.probe.protected[0].type for c in cases if c.group is not None}
    if not types:
        return []
    extracted = {leak.case.group for leak in leaks}
    tried = Counter(types.values())
    completed = Counter(type for group, type in types.items() if group in extracted)
    each = ", ".join(f"{type} {completed[type]} of {tried[type]}" for type in sorted(tried))
    return [
        f"values of the corpus that the model completes: {len(extracted)} of {len(types)} ({each})"
    ]


def _untraced(leak: _ValueLeak, method: str) -> Finding:
    """A leak that an interruption left without a trace."""
    finding = Finding(
        prompt=leak.query.prompt,
        response=leak.query.response,
        method=method,
        records=(),
        generated=leak.query.generated,
        span=leak.value.value,
        notes=("interrupted before it was traced",),
    )
    return _of_probe(finding, leak)
