"""Audits that ask each probe several times: each distinct value once, and how often it is said."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

from haiftrace.auditing.audit import leaked_values
from haiftrace.auditing.sampled import Answers, distinct
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import generated_query, sampled_queries
from haiftrace.query.sampling import Sampling
from tests import kit
from tests.auditing.audit_kit import audited, case, write_probes
from tests.kit import PROMPT, cli, refused

SAMPLE = ("--sample", "12", "--temperature", "1.4", "--seed", "3")


def query(response):
    return type("Q", (), {"response": response})()


def test_each_distinct_part_counts_once_an_answer():
    answered = Answers(
        query("a b"), [query("b c b"), None, query("c"), query("c d")], Sampling(4, 0.5)
    )
    said = distinct(answered, lambda q: [(word, word.upper()) for word in q.response.split()])
    counts = [(s.part, s.frequency.said, s.frequency.greedy, s.query.response) for s in said]
    assert counts == [
        ("B", 1, True, "a b"),
        ("A", 0, True, "a b"),
        ("C", 3, False, "b c b"),
        ("D", 1, False, "c d"),
    ]
    assert {(s.frequency.sampled, s.frequency.temperature) for s in said} == {(4, 0.5)}
    alone = distinct(Answers(query("a b"), [], None), lambda q: [(w, w) for w in q.response])
    assert all(s.frequency is None for s in alone)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    probes = write_probes(
        folder / "probes.jsonl",
        {"prompt": PROMPT, "protected": [{"type": "phone", "value": "555-0142"}]},
        {"prompt": PROMPT, "response": " 555-0142.", "id": "given"},
    )
    outputs = [f"-o={folder / f'report.{suffix}'}" for suffix in ("json", "html", "md")]
    outputs = [part for output in outputs for part in output.split("=")]
    outcome = audited(probes, *SAMPLE, *outputs, "--reveal")
    assert outcome.code == 1, outcome.err
    return folder, outcome


def test_findings_say_how_often_each_value_is_said(sampled):
    folder, outcome = sampled
    report = json.loads((folder / "report.json").read_text())
    findings = [f for f in report["findings"] if f["probe"]["id"] != "given"]
    model = kit.checkpoint("gpt2", "float32")
    prompting = PromptSettings(max_new_tokens=8, sampling=Sampling(12, 1.4, 3))
    greedy = generated_query(model, PROMPT, prompting, None)

    def values(said):
        of_answer = leaked_values(case("555-0142"), PROMPT, said.response) if said else []
        return {value.value for value in of_answer}

    counts = Counter(v for said in sampled_queries(model, PROMPT, prompting) for v in values(said))
    expected = {v: (counts[v], v in values(greedy)) for v in {*counts, *values(greedy)}}
    shown = {f["span"]: (f["frequency"]["said"], f["frequency"]["greedy"]) for f in findings}
    assert shown == expected
    assert shown["555-0142"][1]
    assert len(findings) == len(shown) == report["gate"]["leaks"] - 1
    given = [f for f in report["findings"] if f["probe"]["id"] == "given"]
    assert [f["frequency"] for f in given] == [None]
    assert report["settings"]["sample"] == 12
    assert report["settings"]["temperature"] == 1.4
    sentence = (
        f"in {shown['555-0142'][0]} of 12 answers drawn at temperature 1.4, and in the greedy"
    )
    assert f"phone {shown['555-0142'][0]}/12" in outcome.out
    assert sentence in (folder / "report.html").read_text()
    assert sentence in (folder / "report.md").read_text()
    verbose = cli("report", folder / "report.json", "--verbose")
    assert sentence in " ".join(verbose.out.split())


def test_the_report_fits_its_schema(sampled):
    folder, _ = sampled
    schema = json.loads(files("haiftrace.reports").joinpath("report.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads((folder / "report.json").read_text()))


def test_a_single_prompt_is_asked_several_times_too():
    where = ("--index", kit.index_path(), "--max-new-tokens", "8", "-q", "-o", "-")
    outcome = cli("trace", PROMPT, *where, "--sample", 6, "--temperature", 1.6, "--reveal")
    assert outcome.code == 0, outcome.err
    findings = outcome.report["findings"]
    assert findings[0]["frequency"]["greedy"]
    assert len({(f["span"], f["response"]) for f in findings}) == len(findings) > 1
    counts = [f["frequency"]["said"] for f in findings[1:]]
    assert counts == sorted(counts, reverse=True)
    assert all(f["frequency"]["sampled"] == 6 for f in findings)


def test_options_that_would_do_nothing_are_refused():
    where = ("trace", PROMPT, "--index", kit.index_path())
    refused(cli(*where, "--temperature", 2), "--temperature goes with --sample")
    refused(cli(*where, "--sample", 2, "--response", "x"), "--sample asks the model")
    refused(cli(*where, "--sample", 2, "--temperature", 0), "draws nothing")
