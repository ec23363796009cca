"""Reports made by hand: of a trace, of an audit with its gate, and of findings of every sort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haiftrace.findings import Finding, IndexInfo, ModelInfo, PrivateValue, Probe, Report
from haiftrace.gate_outcome import Gate
from tests.reports.finding_samples import (
    chinese_finding,
    english_finding,
    hostile_finding,
    paired_finding,
)
from tests.reports.leak_samples import (
    arabic_finding,
    inconclusive_verdict,
    judged,
    markup_finding,
    traced_finding,
    untraced_finding,
)


def report_of(*findings: Finding, **more: Any) -> Report:
    return Report(
        model=ModelInfo(
            path="/models/people-135m",
            architecture="LlamaForCausalLM",
            parameters=134_515_008,
            traced_parameters=106_168_320,
            scope="linear",
            dtype="float32",
            fingerprint="sha256:3f2a",
        ),
        index=IndexInfo(
            path="haiftrace-index",
            records=220,
            windows=224,
            tokens=16_940,
            scope="linear",
            corpus_fingerprint="sha256:91bc",
        ),
        findings=findings,
        tool_version="0.1.0",
        command='haiftrace trace "What\'s the phone of John Doe?"',
        seconds=12.34,
        settings={"top": 5, "method": "haif", "exact": False, "span": None, "epsilon": 1e-4},
        **more,
    )


def gate_of(*findings: Finding, **more: Any) -> Gate:
    """The gate of an audit that asked for no leak at all."""
    counted = [f for f in findings if f.kind is not None and f.suppressed is None]
    known = sum(f.kind is not None and f.suppressed == "baseline" for f in findings)
    ignored = sum(f.suppressed is not None for f in findings) - known
    inconclusive = sum(
        f.verdict is not None and f.verdict.decision == "inconclusive" for f in findings
    )
    values: dict[str, Any] = {
        "exit_code": 1 if counted else 3 if inconclusive else 0,
        "fail_on": "leak",
        "max_leaks": 0,
        "probes": len(findings),
        "leaks": len(counted),
        "known": known,
        "ignored": ignored,
        "inconclusive": inconclusive,
        "reasons": (f"{len(counted)} leaks, and none is allowed.",) if counted else (),
    }
    values |= {kind: sum(f.kind == kind for f in counted) for kind in ("verbatim", "inferred")}
    values["untraced"] = sum(f.kind == "untraced" for f in counted)
    return Gate(**(values | more))


def audit_findings() -> tuple[Finding, ...]:
    """Each kind of leak, a known and an ignored one, an inconclusive one, and a clean probe."""
    clean = replace(english_finding(records=(), span=None), probe=Probe("clean-1"), response="No.")
    unsure = judged(english_finding(), inconclusive_verdict(), (None, None, None))
    return (
        traced_finding(),
        arabic_finding(),
        untraced_finding(),
        traced_finding(probe=Probe("phone-018", "probes.jsonl", 18), suppressed="baseline"),
        untraced_finding(
            probe=Probe("press", "probes.jsonl", 50), suppressed="a published press contact"
        ),
        replace(
            unsure,
            probe=Probe("phone-019", "probes.jsonl", 19),
            leaked=(PrivateValue("phone", "555-0134", given=False),),
            kind="untraced",
            fingerprint="1234" * 16,
        ),
        clean,
    )


def audit_report(**more: Any) -> Report:
    findings = audit_findings()
    return report_of(*findings, **({"gate": gate_of(*findings), "masked": True} | more))


def whole_report() -> Report:
    """Findings of every sort in one report."""
    return report_of(
        english_finding(),
        chinese_finding(),
        hostile_finding(),
        english_finding(records=(), response_tokens=(), span=None),
        *audit_findings(),
        markup_finding(),
        paired_finding(),
        gate=gate_of(*audit_findings()),
        masked=True,
    )
