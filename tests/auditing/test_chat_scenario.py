"""A chat fine-tune audited as its owner would: no verdict that a text search refutes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.auditing.chat_scenario import Scenario, make_scenario
from tests.kit import cli

LEAST_PROBES = 36


@pytest.fixture(scope="module", params=[0, 1, 2])
def audited(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scenario, dict[str, Any], Path]:
    """The scenario of a seed, the report of its audit, and the folder with everything."""
    folder = tmp_path_factory.mktemp(f"chat-{request.param}")
    scenario = make_scenario(folder, request.param)
    made = cli(
        *("index", "--model", folder / "checkpoint", "--corpus", folder / "corpus.jsonl"),
        *("-o", folder / "index", "--quiet"),
    )
    assert made.code == 0, made.err
    traced = cli(
        *("trace", "--prompts", folder / "probes.jsonl"),
        *("--index", folder / "index", "--reveal", "--quiet", "-o", "-"),
        *("--sources", folder / "sources.jsonl"),
    )
    assert traced.code == 1, traced.err
    return scenario, traced.report, folder


def outcome_of(scenario: Scenario, finding: dict[str, Any]) -> str:
    """What a finding says, in a word or two; AssertionError where the text refutes it."""
    (leaked,) = finding["leaked"]
    value, decision = leaked["value"], finding["verdict"]["decision"]
    holders = scenario.holders(value)
    assert {holder["id"] for holder in finding["holders"]} == holders, value
    if not holders:
        assert finding["kind"] != "verbatim", value
        return f"in no record: {decision}"
    assert decision in ("traced", "inconclusive"), (value, finding["verdict"])
    if decision == "inconclusive":
        return "in a record: inconclusive"
    assert finding["kind"] == "verbatim", (value, finding["kind"], finding["verdict"])
    return f"in a record: traced, {finding['verdict']['basis']}"


@pytest.mark.slow
def test_no_verdict_is_refuted_by_the_corpus(
    audited: tuple[Scenario, dict[str, Any], Path],
) -> None:
    scenario, report, _ = audited
    assert len(list(scenario.probes())) >= LEAST_PROBES
    counts = Counter(outcome_of(scenario, finding) for finding in report["findings"])
    print(scenario.seed, len(list(scenario.probes())), dict(sorted(counts.items())))
    stands = sum(count for name, count in counts.items() if name.startswith("in a record"))
    assert stands >= 20
    traced = sum(count for name, count in counts.items() if name.startswith("in a record: traced"))
    assert traced >= 0.6 * stands


@pytest.mark.slow
def test_the_sources_are_all_holders_and_nothing_that_holds_nothing(
    audited: tuple[Scenario, dict[str, Any], Path],
) -> None:
    """Of every traced value that stands in the corpus."""
    scenario, report, folder = audited
    rows = [json.loads(line) for line in (folder / "sources.jsonl").read_text().splitlines()]
    for finding in report["findings"]:
        value = finding["leaked"][0]["value"]
        holders = scenario.holders(value)
        if holders and finding["verdict"]["decision"] == "traced":
            named = {row["id"] for row in rows if finding["fingerprint"] in row["findings"]}
            assert named >= holders, value


@pytest.mark.slow
def test_a_redacted_corpus_holds_none_of_the_traced_values(
    audited: tuple[Scenario, dict[str, Any], Path],
) -> None:
    scenario, report, folder = audited
    clean = folder / "clean.jsonl"
    done = cli(
        *("redact", "--corpus", folder / "corpus.jsonl", "--sources", folder / "sources.jsonl"),
        *("-o", clean),
    )
    assert done.code == 0, done.err
    left = {json.loads(line)["id"] for line in clean.read_text().splitlines()}
    traced = [f for f in report["findings"] if f["verdict"]["decision"] == "traced"]
    assert traced
    for finding in traced:
        assert not scenario.holders(finding["leaked"][0]["value"]) & left
