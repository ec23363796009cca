"""Shards of an audit put together: the report that the audit as one would have given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from haiftrace.auditing.merged_report import chosen_findings, merged_report
from haiftrace.errors import UsageError
from haiftrace.findings import Finding, PrivateValue, Probe, Report
from haiftrace.gate_outcome import BaselineComparison, GoneLeak
from tests.reports.leak_samples import inconclusive_verdict, traced_finding, untraced_finding
from tests.reports.report_samples import gate_of, report_of

NAME = "ht2:0123456789ab"


def leak(number: int, value: str = "5••-•••-••34", **more: Any) -> Finding:
    found = PrivateValue("phone", value, given=False)
    values: dict[str, Any] = {
        "probe": Probe(f"p{number}", "probes.jsonl", number),
        "prompt": f"Question {number}?",
        "fingerprint": f"ht2:{number:012x}",
        "value_number": 1,
        "leaked": (found,),
    }
    return traced_finding(**(values | more))


def shard(*findings: Finding, probes: int | None = None, **more: Any) -> Report:
    gate = gate_of(*findings, probes=len(findings) if probes is None else probes, reasons=())
    return report_of(*findings, **({"gate": gate, "masked": True} | more))


def refused(*reports: Report) -> str:
    with pytest.raises(UsageError) as caught:
        merged_report(reports, [f"{n}.json" for n in range(len(reports))])
    assert caught.value.hint
    return caught.value.message


def test_the_findings_of_all_stand_behind_each_other_and_counts_are_of_all() -> None:
    quiet = replace(untraced_finding(), probe=Probe("p9"), verdict=inconclusive_verdict())
    merged = merged_report([shard(leak(1), leak(2), probes=10), shard(quiet, probes=7), shard()])
    assert [f.probe and f.probe.id for f in merged.findings] == ["p1", "p2", "p9"]
    assert merged.gate is not None
    assert (merged.gate.probes, merged.gate.leaks, merged.gate.exit_code) == (17, 3, 1)
    assert (merged.gate.verbatim, merged.gate.untraced) == (2, 1)
    assert merged.gate.reasons == ("leaks found: 3; allowed: 0",)
    assert merged.seconds == pytest.approx(3 * 12.34)


def test_q_values_are_over_all_findings() -> None:
    merged = merged_report([shard(leak(1)), shard(leak(2))])
    first = merged.findings[0].verdict
    assert first is not None
    assert first.q_value == pytest.approx(1 / 513)


def test_what_two_shards_hold_counts_once() -> None:
    both = merged_report([shard(leak(1), leak(2)), shard(leak(2), leak(3))])
    assert [f.probe and f.probe.id for f in both.findings] == ["p1", "p2", "p3"]
    assert both.gate is not None
    assert both.gate.leaks == 3
    # Two values that masks show alike are two, in a shard as in all.
    twins = [leak(1, fingerprint=NAME), leak(1, fingerprint=NAME, value_number=2)]
    again = merged_report([shard(*twins), shard(*twins)])
    assert [f.value_number for f in again.findings] == [1, 2]


def test_values_under_a_fingerprint_are_numbered_over_all() -> None:
    ones = shard(leak(1, "5••-•••-••34", fingerprint=NAME))
    others = shard(
        leak(2, "7••-•••-••10", fingerprint=NAME),
        leak(3, "5••-•••-••34", fingerprint=NAME, value_number=2),
    )
    merged = merged_report([ones, others])
    assert [f.value_number for f in merged.findings] == [1, 2, 1]
    keyed = [
        shard(leak(number, fingerprint=NAME, value_digest=f"k:{digest}"))
        for number, digest in enumerate("aba")
    ]
    assert [f.value_number for f in merged_report(keyed).findings] == [1, 2, 1]


def test_what_a_shard_leaves_open_is_open() -> None:
    clean = shard(probes=5)
    unsure = shard(probes=5)
    assert unsure.gate is not None
    gate = replace(unsure.gate, exit_code=3, reasons=("1 of 5 probes could not be asked",))
    merged = merged_report([clean, replace(unsure, gate=gate)])
    assert merged.gate is not None
    assert merged.gate.exit_code == 3
    assert merged.gate.reasons == ("1 of 5 probes could not be asked",)
    partial = merged_report([clean, replace(unsure, gate=replace(gate, partial=True))])
    assert partial.gate is not None
    assert partial.gate.partial
    # A shard that was given no probe says nothing where others were.
    idle = replace(gate, probes=0, reasons=("no probe was asked",))
    merged = merged_report([clean, replace(unsure, gate=idle)])
    assert merged.gate is not None
    assert (merged.gate.exit_code, merged.gate.reasons) == (0, ())


def test_known_leaks_are_counted_over_all() -> None:
    gone = [GoneLeak(f"ht2:{n:012x}", f"p{n}", "phone") for n in (7, 8)]
    first = leak(1, suppressed="baseline")
    shards = [
        shard(first, gate=gate_of(first, baseline=BaselineComparison(5, 3, True, (gone[0],)))),
        shard(gate=gate_of(baseline=BaselineComparison(5, 4, True, (gone[1],)))),
    ]
    merged = merged_report(shards)
    assert merged.gate is not None
    assert merged.gate.baseline == BaselineComparison(5, 2, True, tuple(gone))
    assert merged.gate.known == 1
    lone = merged_report([shards[0], shard()])
    assert lone.gate is not None
    assert lone.gate.baseline is None


def test_what_is_not_of_one_audit_is_refused() -> None:
    first = shard(leak(1))
    other = replace(first.model, fingerprint="sha256:else")
    assert "'0.json' and '1.json' are not of one audit" in refused(
        first, replace(first, model=other)
    )
    assert "checkpoints" in refused(first, replace(first, model=other))
    corpus = replace(first.index, corpus_fingerprint="else")
    assert "corpora" in refused(first, replace(first, index=corpus))
    settings = {**first.settings, "top": 6, "new": 1}
    assert "settings (new, top)" in refused(first, replace(first, settings=settings))
    assert "gates" in refused(first, replace(first, gate=None))
    assert "gates" in refused(first, shard(leak(1), gate=gate_of(leak(1), max_leaks=3)))
    assert "versions" in refused(first, replace(first, tool_version="9"))
    renamed = shard(leak(1, prompt="Another?"))
    assert "different probes of one id" in refused(first, renamed)


def test_a_category_and_a_seed_may_differ() -> None:
    first, second = (
        replace(shard(leak(n)), settings={"category": f"part-{n}", "sample seed": n, "top": 5})
        for n in (1, 2)
    )
    assert merged_report([first, second]).settings == {"top": 5}


def test_traces_are_merged_without_a_gate() -> None:
    first, second = (report_of(leak(n)) for n in (1, 2))
    merged = merged_report([first, second])
    assert merged.gate is None
    assert len(merged.findings) == 2


def test_one_leak_is_chosen_by_fingerprint_or_probe() -> None:
    report = shard(leak(1), leak(2))
    for name in ("p2", "ht2:000000000002"):
        chosen = chosen_findings(report, name)
        assert chosen.gate is None
        assert [f.probe and f.probe.id for f in chosen.findings] == ["p2"]
    with pytest.raises(UsageError, match="no finding"):
        chosen_findings(report, "p3")
