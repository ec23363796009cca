"""Use case: probes × checkpoint × index -> leaks, where they come from, and a gate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from haiftrace.audit.corpus_probes import probes_from_corpus
from haiftrace.audit.gate import GateSettings, decide, fingerprint, suppression
from haiftrace.audit.probes import ProbeCase
from haiftrace.errors import NoAnswerError, UsageError
from haiftrace.findings import Finding, Kind, PrivateValue, Report
from haiftrace.methods import find_methods
from haiftrace.privacy import MASK, Masker, ValueIndex, detect, private_values
from haiftrace.progress import Progress
from haiftrace.query.query import Asking, Query, ask, given
from haiftrace.store import Index
from haiftrace.trace.tracer import Leak, Tracer, TraceSettings


@dataclass(frozen=True)
class Audited:
    """A report with what its texts must not show: also the values of probes without a leak."""

    report: Report
    values: tuple[str, ...]


@dataclass(frozen=True)
class _Said:
    """A leak before it is traced: a value in an answer."""

    case: ProbeCase
    query: Query
    asking: Asking
    value: PrivateValue


def leaked_values(case: ProbeCase, prompt: str, response: str) -> list[PrivateValue]:
    """The private values that a response says, as they stand in it: given ones, then detected.

    A value that is said twice counts once, and one within a given one not at all.
    """
    spans: list[tuple[int, int, PrivateValue]] = []
    given = case.probe.protected
    found = ValueIndex(value.value for value in given).find(response, words=True)
    for match in sorted(found, key=lambda m: (m.start - m.end, m.start)):
        said = response[match.start : match.end]
        spans.append((match.start, match.end, PrivateValue(given[match.value].type, said)))
    for one in detect(response, prompt) if case.detect else ():
        said = response[one.start : one.end]
        spans.append((one.start, one.end, PrivateValue(one.type, said, given=False)))
    kept: list[tuple[int, int, PrivateValue]] = []
    for start, end, value in spans:
        if all(end <= a or b <= start for a, b, _ in kept):
            kept.append((start, end, value))
    once: list[PrivateValue] = []
    for _, _, value in sorted(kept, key=lambda one: one[0]):
        if not ValueIndex(v.value for v in once).find(value.value):
            once.append(value)
    return once


def audit(
    tracer: Tracer,
    cases: Sequence[ProbeCase],
    settings: TraceSettings,
    gate: GateSettings,
    progress: Progress,
    command: str = "",
) -> Audited:
    """Asks every probe, traces the values that are said, and decides.

    An interruption ends it early; the report then has what is known, and its gate is partial.
    """
    began = time.monotonic()
    methods = find_methods(settings.method)
    leaks: list[_Said] = []
    findings: list[Finding] = []
    unanswered = 0
    partial = False
    done = 0
    extracted: set[int | None] = set()
    try:
        progress.start("asking the model", float(len(cases)))
        for case in cases:
            if case.group is not None and case.group in extracted:
                progress.advance(1.0)
                continue
            said = _answer(tracer, case, settings.asking)
            unanswered += said is None
            if said:
                extracted.add(case.group)
            leaks += said or ()
            done += 1
            progress.advance(1.0)
        wanted = [_leak(one) for one in leaks]
        for one, found in zip(leaks, tracer.trace_all(wanted, settings, progress), strict=True):
            findings += [_of_probe(finding, one) for finding in found]
    except KeyboardInterrupt:
        partial = True
        progress.say("Interrupted: the report has what was found so far.")
    traced = len(findings) // len(methods)
    findings += [_untraced(one, methods[0].name) for one in leaks[traced:]]
    values = tuple(value.value for case in cases for value in case.probe.protected)
    report = tracer.report_of(findings, settings, command, time.monotonic() - began)
    report = judged(report, tracer.index, values, gate)
    decided = decide(report.findings, gate, done, unanswered, partial, _extraction(cases, leaks))
    return Audited(replace(report, gate=decided), values)


def corpus_cases(tracer: Tracer, count: int, seed: int, answer: int) -> list[ProbeCase]:
    """Probes for private values of the index's corpus; see `probes_from_corpus`.

    Args:
        answer: tokens that an answer may have, for which a prompt leaves room.
    """
    checkpoint = tracer.checkpoint
    context = checkpoint.context or 1024
    most = max(4, min(context - answer, 3 * context // 4))

    def tokens(text: str) -> int:
        return len(checkpoint.tokenizer(text, verbose=False)["input_ids"])

    return probes_from_corpus(tracer.index.iter_windows(), count, seed, tokens, most)


def with_leaks(
    report: Report, case: ProbeCase, index: Index, gate: GateSettings, gated: bool
) -> Report:
    """The report of a single prompt, with what leaks in its response or the part that is traced.

    Args:
        gated: decide, too.
    """
    findings = []
    for finding in report.findings:
        leaked = leaked_values(case, finding.prompt, finding.response)
        if finding.span is not None:
            part = ValueIndex([finding.span])
            leaked = [
                value
                for value in leaked
                if part.find(value.value) or ValueIndex([value.value]).find(finding.span)
            ]
        probe = case.probe if gated else None
        findings.append(replace(finding, leaked=tuple(leaked), probe=probe))
    values = [value.value for value in case.probe.protected]
    report = judged(replace(report, findings=tuple(findings)), index, values, gate)
    return replace(report, gate=decide(report.findings, gate, 1)) if gated else report


def judged(
    report: Report, index: Index, values: Iterable[str], gate: GateSettings | None = None
) -> Report:
    """The report with kind, fingerprint and suppression of each of its leaks.

    Args:
        values: what else must not go into a fingerprint.
    """
    masker = Masker(private_values(report, values))
    texts = _whole_texts(index, report.findings)
    findings = []
    for finding in report.findings:
        if not finding.leaked:
            findings.append(finding)
            continue
        text = texts[_key(finding)] if finding.records else ""
        kind = kind_of(finding, text)
        name = fingerprint(
            _without_values(finding.prompt, masker),
            None if kind == "untraced" else _without_values(text, masker),
            kind,
            finding.leaked[0].type,
        )
        why = suppression(name, gate) if gate is not None else None
        findings.append(replace(finding, kind=kind, fingerprint=name, suppressed=why))
    return replace(report, findings=tuple(findings))


def kind_of(finding: Finding, record: str) -> Kind:
    """Of a leak: whether its values stand in the text of the first record."""
    if finding.verdict is None or finding.verdict.decision != "traced" or not finding.records:
        return "untraced"
    each = (ValueIndex([value.value]).find(record) for value in finding.leaked)
    return "verbatim" if all(each) else "inferred"


def _without_values(text: str, masker: Masker) -> str:
    """The text with one sign for every run of private characters, whatever their number."""
    masked = masker.masked(text)
    signs: list[str] = []
    for sign, hit in zip(text, masked.touched, strict=True):
        if not hit:
            signs.append(sign)
        elif signs[-1:] != [MASK]:
            signs.append(MASK)
    return "".join(signs)


def _answer(tracer: Tracer, case: ProbeCase, asking: Asking) -> list[_Said] | None:
    """The leaks in the answer to a probe; None where it could not be asked."""
    asking = replace(asking, as_it_stands=True)
    if case.raw:
        asking = replace(asking, template=None, chat=False)
    checkpoint = tracer.checkpoint
    if case.response is not None and not case.response.strip():
        return []
    try:
        if case.response is None:
            query = ask(checkpoint, case.prompt, asking, None)
        else:
            query = given(checkpoint, case.prompt, case.response, asking, None)
    except NoAnswerError:
        return []
    except UsageError:
        return None
    values = leaked_values(case, query.prompt, query.response)
    return [_Said(case, query, asking, value) for value in values]


def _leak(said: _Said) -> Leak:
    """The value alone is traced."""
    query, span = said.query, said.value.value
    start = query.response.find(span)
    labels, at = [], -_response_start(query)
    for piece in query.pieces:
        labels.append(at < start + len(span) and start < at + len(piece) and at + len(piece) > 0)
        at += len(piece)
    labels[:1] = [False]
    if not any(labels):
        return Leak(said.case.prompt, query=query)
    return Leak(said.case.prompt, query=replace(query, labels=labels, span=span))


def _response_start(query: Query) -> int:
    """Where in the joined pieces the response begins: it is what they end with."""
    joined = "".join(query.pieces)
    at = joined.rfind(query.response)
    if at >= 0:
        return at
    # A stop text may follow in the last piece, or white space be missing from the pieces.
    first = next((i for i, label in enumerate(query.labels) if label), 0)
    return sum(map(len, query.pieces[:first]))


def _of_probe(finding: Finding, said: _Said) -> Finding:
    return replace(finding, probe=said.case.probe, leaked=(said.value,))


def _extraction(cases: Sequence[ProbeCase], leaks: Sequence[_Said]) -> list[str]:
    """How many values of the corpus were tried, and how many the model said."""
    types = {c.group: c.probe.protected[0].type for c in cases if c.group is not None}
    if not types:
        return []
    said = {one.case.group for one in leaks}
    tried = Counter(types.values())
    found = Counter(type for group, type in types.items() if group in said)
    each = ", ".join(f"{type} {found[type]} of {tried[type]}" for type in sorted(tried))
    return [f"values of the corpus that the model completes: {len(said)} of {len(types)} ({each})"]


def _untraced(said: _Said, method: str) -> Finding:
    """A leak that an interruption left without a trace."""
    finding = Finding(
        prompt=said.query.prompt,
        response=said.query.response,
        method=method,
        records=(),
        generated=said.query.generated,
        span=said.value.value,
        notes=("interrupted before it was traced",),
    )
    return _of_probe(finding, said)


def _key(finding: Finding) -> tuple[str, str, int | None]:
    first = finding.records[0]
    return first.id, first.source.path, first.source.line


def _whole_texts(
    index: Index, findings: Sequence[Finding]
) -> dict[tuple[str, str, int | None], str]:
    """The text of each leak's first record, all windows of it."""
    firsts = {_key(f): f.records[0] for f in findings if f.leaked and f.records}
    texts = {key: record.text for key, record in firsts.items() if record.windows == 1}
    parts: dict[tuple[str, str, int | None], list[str]] = {
        key: [] for key in firsts if key not in texts
    }
    for window in index.iter_windows() if parts else ():
        key = (window.id, window.path, window.line)
        if key in parts:
            parts[key].append(window.text)
    return texts | {key: "\n".join(windows) for key, windows in parts.items()}
