"""Reports of one audit's shards, put together to the report of all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haiftrace.auditing.gate import GateSettings, decide
from haiftrace.auditing.leak_values import have_digests_of_a_key, leaked_value, leaked_values_of
from haiftrace.calibration.verdict import with_q_values
from haiftrace.errors import EXIT_CLEAN, EXIT_INCONCLUSIVE, UsageError
from haiftrace.findings import Finding, Report
from haiftrace.gate_outcome import BaselineComparison, Gate

_HINT = (
    "Merge the reports of one audit: the same checkpoint, corpus and options over parts of the"
    " probes. Two audits are compared with --against."
)
_OWN = {"category", "sample seed"}
"""Settings that shards of an audit may differ in."""
_COUNTED = re.compile(
    r"leaks .*: \d+; allowed: \d+|no probe was asked|\d+ more may have a source.*"
)
"""Reasons of a gate that are decided again."""


def merged_report(reports: Sequence[Report], names: Sequence[str] = ()) -> Report:
    """The report of an audit from the reports of its shards, or of several traces.

    A finding that two of them hold counts once. q-values, the numbers of values and the gate are
    those of all; the probes' number is the sum, and what one shard leaves open is open.

    Args:
        reports: one or more, all masked or none.
        names: of their files, for messages.

    Raises:
        UsageError: they are of different models, corpora, versions or settings, an audit and a
            trace, or one id names two probes.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    names = names or [f"report {number}" for number in range(1, len(reports) + 1)]
    for report, name in zip(reports[1:], names[1:], strict=True):
        _check_alike(first, report, names[0], name)
    findings = with_q_values(_numbered(_distinct(reports, names), reports))
    settings = {key: value for key, value in first.settings.items() if _agree(reports, key)}
    return replace(
        first,
        findings=tuple(findings),
        command=" ; ".join(dict.fromkeys(r.command for r in reports if r.command)),
        seconds=sum(report.seconds for report in reports),
        settings=settings,
        gate=_gate(findings, [report.gate for report in reports if report.gate is not None]),
        comparison=None,
    )


def _check_alike(first: Report, other: Report, first_name: str, name: str) -> None:
    """Raises UsageError where two reports are not of one audit."""
    differing = [
        what
        for what, of_first, of_other in (
            ("checkpoints", first.model.fingerprint, other.model.fingerprint),
            ("parameters in scope", first.model.scope, other.model.scope),
            ("precisions", first.model.dtype, other.model.dtype),
            ("corpora", first.index.corpus_fingerprint, other.index.corpus_fingerprint),
            ("versions of haiftrace", first.tool_version, other.tool_version),
            ("gates", _rule(first.gate), _rule(other.gate)),
        )
        if of_first != of_other
    ]
    keys = sorted({*first.settings, *other.settings} - _OWN)
    unlike = [key for key in keys if first.settings.get(key) != other.settings.get(key)]
    if unlike:
        differing.append(f"settings ({', '.join(unlike[:8])})")
    if differing:
        raise UsageError(
            f"'{first_name}' and '{name}' are not of one audit: they have different"
            f" {' and '.join(differing)}.",
            _HINT,
        )


def _rule(gate: Gate | None) -> tuple[Any, ...] | None:
    """What a gate fails on, and whether it knows a baseline; None of a trace."""
    return None if gate is None else (gate.fail_on, gate.max_leaks)


def _agree(reports: Sequence[Report], key: str) -> bool:
    return len({repr(report.settings.get(key)) for report in reports}) == 1


def _distinct(reports: Sequence[Report], names: Sequence[str]) -> list[tuple[int, Finding]]:
    """Each finding with its report's number, one that an earlier report holds too left out."""
    kept: dict[Any, tuple[int, Finding]] = {}
    asked: dict[str, tuple[str, str]] = {}
    for number, (report, name) in enumerate(zip(reports, names, strict=True)):
        own: dict[Any, int] = {}
        for finding in report.findings:
            if finding.probe is not None:
                prompt, where = asked.setdefault(finding.probe.id, (finding.prompt, name))
                if prompt != finding.prompt:
                    raise UsageError(
                        f"'{where}' and '{name}' have different probes of one id.",
                        'Give each probe an "id" of its own, and audit again.',
                    )
            key = _identity(finding)
            own[key] = own.get(key, 0) + 1  # masked values may look alike within a report
            kept.setdefault((key, own[key]), (number, finding))
    return list(kept.values())


def _identity(finding: Finding) -> Any:
    """What is the same of one finding in two reports, whatever the order of the findings."""
    leaked = tuple((value.type, value.value) for value in finding.leaked)
    probe = None if finding.probe is None else finding.probe.id
    text = (finding.prompt, finding.response, finding.span)
    return probe, finding.method, finding.fingerprint, finding.value_digest, leaked, text


def _numbered(findings: Sequence[tuple[int, Finding]], reports: Sequence[Report]) -> list[Finding]:
    """The findings with the numbers of their values over all reports.

    A report's value is that of an earlier one under its fingerprint where digests, or what is
    shown, say so; each of these stands for one.
    """
    exact = have_digests_of_a_key(*map(leaked_values_of, reports))
    known: dict[str, list[tuple[Any, int]]] = {}
    numbers: dict[tuple[int, str, int], int] = {}
    numbered = []
    for report, finding in findings:
        if finding.fingerprint is None or not finding.leaked:
            numbered.append(finding)
            continue
        value = leaked_value(finding, masked=reports[report].masked)
        own = (report, value.fingerprint, value.number)
        if own not in numbers:
            others = known.setdefault(value.fingerprint, [])
            taken = {n for (r, name, _), n in numbers.items() if (r, name) == own[:2]}
            same = value.digest if exact else value.shown
            free = (n for shown, n in others if shown == same and n not in taken)
            numbers[own] = next(free, len(others) + 1)
            if numbers[own] > len(others):
                others.append((same, numbers[own]))
        numbered.append(replace(finding, value_number=numbers[own]))
    return numbered


def _gate(findings: Sequence[Finding], gates: Sequence[Gate]) -> Gate | None:
    if not gates:
        return None
    first = gates[0]
    reasons = dict.fromkeys(
        reason for gate in gates for reason in gate.reasons if not _COUNTED.fullmatch(reason)
    )
    decided = decide(
        findings,
        GateSettings(first.fail_on, first.max_leaks),
        probes=sum(gate.probes for gate in gates),
        partial=any(gate.partial for gate in gates),
        reasons=tuple(reasons),
        baseline=_baseline([gate.baseline for gate in gates], findings),
    )
    is_open = any(gate.exit_code == EXIT_INCONCLUSIVE and gate.probes for gate in gates)
    if decided.exit_code == EXIT_CLEAN and is_open:
        return replace(decided, exit_code=EXIT_INCONCLUSIVE)
    return decided


def _baseline(
    known: Sequence[BaselineComparison | None], findings: Sequence[Finding]
) -> BaselineComparison | None:
    """What became of the known leaks over all shards; None where one has no comparison."""
    all_known = [comparison for comparison in known if comparison is not None]
    if not all_known or len(all_known) < len(known):
        return None
    said = {f.fingerprint for f in findings if f.suppressed == "baseline"}
    gone = dict.fromkeys(
        leak for comparison in all_known for leak in comparison.gone if leak.fingerprint not in said
    )
    leaks = max(comparison.leaks for comparison in all_known)
    occurred = sum(c.leaks - c.not_asked - len(c.gone) for c in all_known)
    return BaselineComparison(
        leaks=leaks,
        not_asked=max(leaks - occurred - len(gone), 0),
        exact=all(comparison.exact for comparison in all_known),
        gone=tuple(gone),
    )


def chosen_findings(report: Report, name: str) -> Report:
    """A report of one leak's findings alone, without a gate.

    Args:
        name: its fingerprint or its probe's id.

    Raises:
        UsageError: the report has no such finding.
    """
    chosen = [
        finding
        for finding in report.findings
        if name == finding.fingerprint or (finding.probe is not None and name == finding.probe.id)
    ]
    if not chosen:
        raise UsageError(
            "The report has no finding of that fingerprint or probe.",
            "Give --finding a fingerprint (ht2:…) or a probe's id that the report names.",
        )
    return replace(report, findings=tuple(chosen), gate=None)
