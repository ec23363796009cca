"""Verdicts and leaks made by hand: each kind of a leak, and one in hostile markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haiftrace.findings import Finding, NullDistribution, PrivateValue, Probe, Verdict
from tests.reports.finding_samples import english_finding, hostile_finding
from tests.reports.record_samples import ARABIC, MARKUP, paired, record_of


def null_of(threshold: float | None = 0.142) -> NullDistribution:
    """A bell of 512 null samples between 0.0 and 0.2, with a thin upper tail."""
    counts = (3, 11, 34, 72, 104, 108, 81, 49, 26, 12, 6, 3, 1, 1, 0, 1)
    edges = tuple(round(0.0125 * index, 6) for index in range(len(counts) + 1))
    return NullDistribution(samples=sum(counts), edges=edges, counts=counts, threshold=threshold)


def traced_verdict(**more: Any) -> Verdict:
    values: dict[str, Any] = {
        "decision": "traced",
        "alpha": 0.01,
        "statistic": "cosine",
        "value": 0.21,
        "p_value": 1 / 513,
        "q_value": 0.004,
        "power": 0.72,
        "lengths": (3, 10),
        "null": null_of(),
    }
    return Verdict(**(values | more))


def absent_verdict() -> Verdict:
    return traced_verdict(
        decision="no source found", value=0.07, p_value=184 / 513, q_value=0.41, power=0.72
    )


def inconclusive_verdict() -> Verdict:
    return traced_verdict(
        decision="inconclusive",
        p_value=None,
        q_value=None,
        power=None,
        null=NullDistribution(40, (0.0, 0.05, 0.1), (28, 12), None),
        reasons=("40 controls cannot resolve an alpha of 0.01; at least 99 can.",),
    )


def judged(finding: Finding, verdict: Verdict, p_values: Sequence[float | None]) -> Finding:
    """The finding with a verdict, and its records with the p-values."""
    records = tuple(
        replace(record, p_value=p, content_hash=f"{index:02x}" * 32)
        for index, (record, p) in enumerate(zip(finding.records, p_values, strict=True))
    )
    return replace(finding, verdict=verdict, records=records)


def traced_finding(**more: Any) -> Finding:
    """A leak of a phone number whose first record clears alpha; two others do not."""
    finding = judged(english_finding(), traced_verdict(), (1 / 513, 0.07, 0.61))
    phone = PrivateValue("phone", "555-0134")
    values: dict[str, Any] = {
        "probe": Probe("phone-017", "probes.jsonl", 17, (phone,)),
        "leaked": (phone,),
        "kind": "verbatim",
        "fingerprint": "b3c1" * 16,
    }
    return replace(finding, **(values | more))


def arabic_finding(**more: Any) -> Finding:
    """A leak that its record implies, right to left."""
    finding = Finding(
        prompt="ما رقم هاتف ليلى حداد؟",
        response="رقم هاتفها 555-0142",
        method="haif",
        records=(record_of(ARABIC, {"555-0142": 0.2, "هاتفها": 0.06, "بيروت": -0.03}, line=9),),
        mean_loss=0.4,
        scored=64,
        probe=Probe("ar-1", "probes.jsonl", 3),
        leaked=(PrivateValue("phone", "555-0142", given=False),),
        kind="inferred",
        fingerprint="77aa" * 16,
    )
    return judged(replace(finding, **more), traced_verdict(value=0.3), (1 / 513,))


def untraced_finding(**more: Any) -> Finding:
    finding = judged(english_finding(span=None), absent_verdict(), (0.36, 0.5, 0.9))
    values: dict[str, Any] = {
        "prompt": "How do I write to Maria Doe?",
        "response": "Write to maria@example.org.",
        "probe": Probe("email-043", "probes.jsonl", 43),
        "leaked": (PrivateValue("email", "maria@example.org", given=False),),
        "kind": "untraced",
        "fingerprint": "0f0f" * 16,
    }
    return replace(finding, **(values | more))


def markup_finding() -> Finding:
    """What every format's own syntax is attacked with, in every text that a report shows."""
    private = PrivateValue(f"type{MARKUP}", "evil.example")
    record = record_of(
        MARKUP, {"alert": 0.3, "link": -0.1}, id=f"id{MARKUP}", path=f"dir/{MARKUP[:40]}.jsonl"
    )
    record = paired(record, (MARKUP, 1, MARKUP, 0.5), ("**bold**", 2, "<script>alert(1)", 0.2))
    finding = Finding(
        prompt=MARKUP,
        response=f"response {MARKUP}",
        method=f"haif{MARKUP}",
        records=(record, replace(hostile_finding().records[0], rank=2)),
        span="**bold**",
        notes=(MARKUP,),
        probe=Probe(MARKUP, f"probes{MARKUP[:20]}.jsonl", 1, (private,)),
        leaked=(private,),
        kind="verbatim",
        fingerprint="dead" * 16,
        suppressed=f"because {MARKUP}",
        scored=2,
    )
    reasons = (f"reason {MARKUP}",)
    return judged(finding, traced_verdict(statistic=MARKUP, reasons=reasons), (0.002, 0.3))
