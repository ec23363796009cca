"""The demo asked without its template: other answers, and no verdict that the corpus refutes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import haiftrace.demo
from tests.generators.demo_subjects import make_subjects
from tests.generators.make_demo import SEED
from tests.kit import cli

BIRTHDAY = re.compile(r"[A-Z][a-z]+ \d{1,2}")
"""A day without a year: records imply one without holding it, while others hold it by chance."""
ASSETS = Path(haiftrace.demo.__file__).parent / "assets"
OPTION = "--template 'Question: {prompt} Answer:'"
"""With which the demo's model is asked as it was trained; no record shows it."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "index"
    corpus = ("--model", ASSETS / "checkpoint", "--corpus", ASSETS / "corpus.jsonl")
    made = cli("index", *corpus, "-o", path, "--quiet")
    assert made.code == 0, made.err
    return path


def holders(value: str) -> set[str]:
    """The ids of the demo's records that hold a value, as `grep -w` finds them."""
    alone = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)
    return {record.id for record in make_subjects(SEED)[0] if alone.search(record.text)}


def check(finding: dict[str, Any], value: str) -> str:
    """The decision, which the text must not refute."""
    right, verdict = holders(value), finding["verdict"]
    assert {holder["id"] for holder in finding["holders"]} == right
    if right:
        assert verdict["decision"] in ("traced", "inconclusive"), value
        assert finding.get("kind") != "inferred", value
        if verdict["decision"] == "traced" and not finding["records"][0]["holds"]:
            assert verdict["basis"] == "text" or BIRTHDAY.fullmatch(value), value
    return ("stands in a record: " if right else "in no record: ") + str(verdict["decision"])


@pytest.mark.slow
def test_the_first_question_of_the_demo_as_a_user_types_it(index: Path) -> None:
    """A single answer with several values, each traced by itself."""
    asked = cli(
        *("trace", "What's the phone of Edward Jackson?", "--index", index),
        *("--reveal", "--quiet", "-o", "-"),
    )
    assert asked.code == 0, asked.err
    findings = [finding for finding in asked.report["findings"] if finding["leaked"]]
    assert findings
    assert {finding["asking"]["option"] for finding in findings} == {OPTION}
    for finding in findings:
        (leaked,) = finding["leaked"]
        assert finding["span"] == leaked["value"]
        check(finding, leaked["value"])


@pytest.mark.slow
def test_every_question_of_the_demo_without_its_template(index: Path, tmp_path: Path) -> None:
    rows = ({"id": str(n), "prompt": q.prompt} for n, q in enumerate(make_subjects(SEED)[1]))
    probes = tmp_path / "probes.jsonl"
    probes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audited = cli(
        *("trace", "--prompts", probes, "--index", index, "--reveal", "--quiet", "-o", "-")
    )
    assert audited.code == 1, audited.err
    findings = audited.report["findings"]
    assert {finding["asking"]["option"] for finding in findings} == {OPTION}
    counts = Counter(check(finding, finding["leaked"][0]["value"]) for finding in findings)
    print(len(findings), dict(sorted(counts.items())))
    assert sum(n for name, n in counts.items() if name.startswith("stands")) >= 20
