"""SARIF: valid, within code scanning's limits, with relative places, and without private text."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.findings import Asking, Probe, Report, Source
from haiftrace.gate_outcome import BaselineComparison, GoneLeak
from haiftrace.reports import sarif, write_report
from haiftrace.reports.sarif import render_sarif
from haiftrace.reports.uris import relative_uri, repository_root
from tests.reports.finding_samples import english_finding, hostile_finding, paired_finding
from tests.reports.leak_samples import markup_finding, traced_finding, untraced_finding
from tests.reports.record_samples import HOSTILE
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of


@cache
def validator() -> jsonschema.Draft4Validator:
    path = Path(__file__).parents[1] / "vendor" / "sarif-schema-2.1.0.json"
    return jsonschema.Draft4Validator(json.loads(path.read_text(encoding="utf-8")))


def run_of(report: Report, root: Path | None = None) -> dict[str, Any]:
    document = json.loads(render_sarif(report, root))
    validator().validate(document)
    run: dict[str, Any] = document["runs"][0]
    for result in run["results"]:
        assert len(result["locations"]) == 1
        assert result["message"]["text"]
        for uri in uris(result):
            split = urlsplit(uri)
            assert not split.scheme
            assert not split.netloc
            assert not uri.startswith("/")
            assert ".." not in uri.split("/")
    return run


def uris(node: Any) -> list[str]:
    if isinstance(node, list):
        return [uri for item in node for uri in uris(item)]
    if not isinstance(node, dict):
        return []
    here = [node["uri"]] if "uri" in node else []
    return here + [uri for item in node.values() for uri in uris(item)]


def place(result: dict[str, Any]) -> tuple[str, int]:
    physical = result["locations"][0]["physicalLocation"]
    return physical["artifactLocation"]["uri"], physical["region"]["startLine"]


def told(run: dict[str, Any]) -> list[tuple[str, str]]:
    notes = run["invocations"][0]["toolExecutionNotifications"]
    return [(note["level"], note["message"]["text"]) for note in notes]


def test_each_leak_is_a_result_of_its_rule() -> None:
    run = run_of(audit_report())
    rules = run["tool"]["driver"]["rules"]
    kinds = [f.kind for f in audit_findings() if f.kind is not None]
    assert [result["properties"]["kind"] for result in run["results"]] == kinds
    for result, kind in zip(run["results"], kinds, strict=True):
        assert result["ruleId"] == f"leak/{kind}" == rules[result["ruleIndex"]]["id"]
    severities = [float(rule["properties"]["security-severity"]) for rule in rules]
    assert severities == sorted(severities, reverse=True)
    assert all(0 < severity <= 10 for severity in severities)
    assert run["invocations"][0]["exitCode"] == 1
    assert run["invocations"][0]["executionSuccessful"] is True


def test_fingerprints_are_the_findings_own() -> None:
    first, *_ = run_of(audit_report())["results"]
    fingerprint = traced_finding().fingerprint
    assert first["partialFingerprints"]["haiftrace/v2"] == fingerprint
    assert first["partialFingerprints"]["primaryLocationLineHash"] == f"{fingerprint}:1"
    (bare,) = run_of(report_of(traced_finding(fingerprint=None)))["results"]
    assert "partialFingerprints" not in bare


def test_what_passes_is_suppressed_with_its_reason() -> None:
    results = run_of(audit_report())["results"]
    assert [bool(result.get("suppressions")) for result in results] == [
        *[False] * 3,
        True,
        True,
        False,
    ]
    assert results[3]["suppressions"][0]["justification"] == "known: in the baseline"
    assert results[4]["suppressions"][0] == {
        "kind": "external",
        "status": "accepted",
        "justification": "a published press contact",
    }


def test_the_record_is_the_place_and_the_probe_belongs_to_it() -> None:
    (result,) = run_of(report_of(traced_finding()))["results"]
    assert place(result) == ("corpus/people.jsonl", 17)
    (related,) = result["relatedLocations"]
    assert related["physicalLocation"]["artifactLocation"]["uri"] == "probes.jsonl"
    assert "corpus/people.jsonl:17" in result["message"]["text"]
    (untraced,) = run_of(report_of(untraced_finding()))["results"]
    assert place(untraced) == ("probes.jsonl", 43)
    assert untraced["relatedLocations"] == []


def test_a_corpus_outside_the_repository_is_named_beside_the_probe(tmp_path: Path) -> None:
    finding = traced_finding(probe=Probe("p", str(tmp_path / "probes" / "a b.jsonl"), 5))
    record = replace(finding.records[0], source=Source("/data/corpus.jsonl", 17))
    finding = replace(finding, records=(record,))
    (result,) = run_of(report_of(finding), tmp_path)["results"]
    assert place(result) == ("probes/a%20b.jsonl", 5)
    (related,) = result["relatedLocations"]
    assert "physicalLocation" not in related
    assert related["logicalLocations"]
    assert "/data/corpus.jsonl:17" in related["message"]["text"]
    (nowhere,) = run_of(report_of(replace(finding, probe=None)), tmp_path)["results"]
    assert place(nowhere) == ("corpus.jsonl", 1)
    (bare,) = run_of(report_of(untraced_finding(probe=None)))["results"]
    assert place(bare) == ("haiftrace-audit", 1)


def test_text_is_there_only_when_it_is_masked() -> None:
    finding = traced_finding()
    masked = render_sarif(report_of(finding, masked=True))
    assert "What's the phone of John Doe?" in masked
    plain = render_sarif(report_of(finding))
    for text in ("555-0134", "What's the phone", "John Doe"):
        assert text not in plain
    assert "marine engineer" not in masked  # a record's text never is


def test_pairs_add_nothing_to_it() -> None:
    leak = replace(traced_finding(), records=paired_finding().records)
    bare = replace(leak, records=tuple(replace(r, pairs=()) for r in leak.records))
    assert render_sarif(report_of(leak, gate=gate_of(leak))) == render_sarif(
        report_of(bare, gate=gate_of(bare))
    )


def test_a_partial_run_and_an_empty_one_are_marked() -> None:
    findings = audit_findings()
    run = run_of(report_of(*findings, gate=gate_of(*findings, partial=True, exit_code=1)))
    assert run["invocations"][0]["executionSuccessful"] is False
    assert any(level == "error" and "interrupted" in text for level, text in told(run))
    empty = run_of(report_of(gate=gate_of(exit_code=3)))
    assert empty["results"] == []
    assert empty["invocations"][0]["exitCode"] == 3
    assert any("no probes" in text for _, text in told(empty))
    single = run_of(report_of(english_finding()))
    assert single["results"] == []
    assert any("not judged" in text for _, text in told(single))


def test_how_to_ask_is_a_warning_once() -> None:
    asking = Asking("It was not asked as it was trained:", "--template 'Q: {prompt}'", 3.0)
    findings = (traced_finding(asking=asking), untraced_finding(asking=asking))
    notes = told(run_of(report_of(*findings, gate=gate_of(*findings), masked=True)))
    warned = [text for level, text in notes if level == "warning" and "as it was trained" in text]
    assert len(warned) == 1
    assert "--template" in warned[0]


def test_too_many_leaks_are_cut_and_those_that_count_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST_RESULTS", 3)
    run = run_of(audit_report())
    assert [r["properties"]["kind"] for r in run["results"]] == ["verbatim", "inferred", "untraced"]
    assert not any("suppressions" in result for result in run["results"])
    assert any("3 further leaks were left out" in text for _, text in told(run))


def test_a_file_that_is_too_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = render_sarif(audit_report())
    limit = len(gzip.compress(whole.encode(), mtime=0)) - 100
    monkeypatch.setattr(sarif, "MOST_BYTES", limit)
    cut = render_sarif(audit_report())
    assert len(gzip.compress(cut.encode(), mtime=0)) <= limit
    results = json.loads(cut)["runs"][0]["results"]
    assert 0 < len(results) < 6
    assert results[0]["ruleId"] == "leak/verbatim"


def test_hostile_text_is_inert_and_no_link() -> None:
    findings = (markup_finding(), replace(hostile_finding(), kind="verbatim"))
    text = render_sarif(report_of(*findings, masked=True))
    run = run_of(report_of(*findings, masked=True))
    for character in "\x1b\x07\x7f\x9b\u202e\u200b":
        assert character not in text
        assert json.dumps(character)[1:-1] not in text
    for result in run["results"]:
        message = result["message"]["text"]
        assert "\n" not in message
        assert all(message[at - 1] == "\\" for at, char in enumerate(message) if char in "[]")
        for mark in "{}":
            assert len([c for c in message if c == mark]) % 2 == 0


@given(st.text(st.sampled_from(list(HOSTILE + "/.:%?#\\ é张~")), max_size=30))
def test_any_path_is_a_relative_uri_or_none(path: str) -> None:
    root = Path.cwd()
    uri = relative_uri(path, root)
    if uri is None:
        return
    assert not urlsplit(uri).scheme
    assert not uri.startswith("/")
    assert ".." not in unquote(uri).split("/")
    assert uri.isascii()
    assert "?" not in uri
    assert "#" not in uri


def test_paths_are_relative_to_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    work = tmp_path / "audits" / "nightly"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    root = repository_root(work)
    assert root == tmp_path
    assert relative_uri("probes.jsonl", root) == "audits/nightly/probes.jsonl"
    assert relative_uri("../../corpus/a.jsonl", root) == "corpus/a.jsonl"
    assert relative_uri("../../../a.jsonl", root) is None
    assert relative_uri(str(tmp_path / "corpus" / "a.jsonl"), root) == "corpus/a.jsonl"
    assert relative_uri("/etc/passwd", root) is None
    assert relative_uri("https://host/a.jsonl", root) is None
    assert relative_uri("a:b.jsonl", root) == "audits/nightly/a%3Ab.jsonl"
    assert relative_uri(str(tmp_path), root) is None
    assert relative_uri("", root) is None


def test_the_suffix_writes_it(tmp_path: Path) -> None:
    write_report(audit_report(), tmp_path / "audit.sarif")
    document = json.loads((tmp_path / "audit.sarif").read_text(encoding="utf-8"))
    validator().validate(document)


def test_a_value_that_nobody_knows_is_a_note_of_its_own_rule() -> None:
    finding = untraced_finding(kind="not-in-corpus", value_number=3)
    run = run_of(report_of(finding))
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("leak/not-in-corpus", "note")
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert "may be made up" in result["message"]["text"]
    assert "must not say" not in result["message"]["text"]
    assert result["partialFingerprints"]["primaryLocationLineHash"].endswith(":3")


def test_the_category_names_the_run_and_the_baseline_its_state() -> None:
    assert run_of(audit_report())["automationDetails"]["id"] == "haiftrace/"
    findings = audit_findings()
    gone = GoneLeak("ht2:0123456789ab", "phone-001", "phone")
    gate = gate_of(*findings, baseline=BaselineComparison(2, 0, True, (gone,)))
    report = replace(audit_report(gate=gate), settings={"category": "support/bot"})
    run = run_of(report)
    assert run["automationDetails"]["id"] == "haiftrace/support/bot/"
    states = [result["baselineState"] for result in run["results"]]
    assert states == ["new", "new", "new", "unchanged", "new", "new"]
    assert ("note", "1 of 2 known leaks no longer occurs.") in told(run)
    assert not any("baselineState" in result for result in run_of(audit_report())["results"])
