"""A private value that enters anywhere, in any spelling, leaves nowhere."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from haiftrace.findings import Holder, PrivateValue, Probe, Report, Source, Verdict
from haiftrace.gate_outcome import BaselineComparison, GoneLeak
from haiftrace.privacy import MASK, ValueIndex, canonical, mask_detected, mask_report
from haiftrace.reports import render_terminal
from haiftrace.reports.figure import render_svg
from haiftrace.reports.html_report import render_html
from haiftrace.reports.json_report import render_json, render_json_lines
from haiftrace.reports.markdown import render_markdown
from haiftrace.reports.sarif import render_sarif
from tests import kit
from tests.kit import cli
from tests.privacy.spellings import SPELLINGS
from tests.reports.finding_samples import english_finding
from tests.reports.record_samples import record_of
from tests.reports.report_samples import gate_of, report_of

CANARIES = {
    "phone": ("", "212-736-5491"),
    "email": ("", "quentin.harrow@mailbox.example.org"),
    "card": ("", "4539 1488 0343 6467"),
    "iban": ("", "DE89 3704 0044 0532 0130 00"),
    "national-id": ("", "536-22-8726"),
    "date-of-birth": ("born on ", "1971-11-23"),
    "address": ("", "731 Larkspur Avenue"),
    "key": ("", "AKIA" + "Q3EGZ7N2X5JDW4KT"),
}


def _record(**more):
    return replace(record_of("The harbour was built in 1893."), **more)


def _finding(**more):
    values = {"kind": "verbatim", "fingerprint": "ht1:" + "ab" * 16, "span": None}
    values |= {"leaked": (PrivateValue("value", "marine engineer"),), "response_tokens": ()}
    values |= {"verdict": Verdict("traced", 0.01), "records": (_record(),)}
    return replace(english_finding(), **({"prompt": "Who?", "response": "She."} | values | more))


def _report(**more):
    finding = _finding(**more)
    return report_of(finding, gate=gate_of(finding))


def _with_model(text):
    report = _report()
    return replace(report, model=replace(report.model, path=f"/models/{text}"))


def _with_gone(text):
    finding = _finding()
    gone = (GoneLeak("ht2:0123456789ab", f"ask {text}", f"type {text}"),)
    known = BaselineComparison(2, 1, False, gone)
    return report_of(finding, gate=gate_of(finding, baseline=known))


def _with_index(text):
    report = _report()
    return replace(report, index=replace(report.index, path=f"/data/{text}/index"))


PLACES = {
    "prompt": lambda text: _report(prompt=f"Is it {text}?"),
    "response": lambda text: _report(response=f"It is {text}."),
    "record": lambda text: _report(records=(_record(text=f"It is {text} now.", tokens=()),)),
    "record's id": lambda text: _report(records=(_record(id=text),)),
    "record's file": lambda text: _report(records=(_record(source=Source(f"d/{text}.jsonl", 3)),)),
    "record's folder": lambda text: _report(records=(_record(source=Source(f"{text}/d.csv", 3)),)),
    "probe's id": lambda text: _report(probe=Probe(f"ask {text}", "p.jsonl", 1)),
    "probe's file": lambda text: _report(probe=Probe("p", f"probes/{text}.jsonl", 1)),
    "probe's value": lambda text: _report(
        probe=Probe("p", "p.jsonl", 1, (PrivateValue("value", text),))
    ),
    "probe's type": lambda text: _report(
        probe=Probe("p", "p.jsonl", 1, (PrivateValue(f"type {text}", "marine"),)),
        leaked=(PrivateValue(f"type {text}", "marine engineer"),),
    ),
    "note": lambda text: _report(notes=(f"seen: {text}",)),
    "reason": lambda text: _report(verdict=Verdict("inconclusive", 0.01, reasons=(f"of {text}",))),
    "ignore file's reason": lambda text: _report(suppressed=f"agreed with {text}"),
    "model's path": _with_model,
    "index's path": _with_index,
    "question": lambda text: _report(asked=f"Is it {text}?"),
    "holder's id": lambda text: _report(holders=(Holder(f"of {text}", Source("d.jsonl", 3)),)),
    "holder's file": lambda text: _report(holders=(Holder("r3", Source(f"d/{text}.csv", 3)),)),
    "gone leak's probe": _with_gone,
    "gate's reason": lambda text: replace(
        _report(), gate=replace(gate_of(_finding()), reasons=(f"not asked: {text}",))
    ),
    "category": lambda text: replace(_report(), settings={"category": text}),
    "setting": lambda text: replace(_report(), settings={"stop": text}),
    "command": lambda text: replace(
        _report(), command=shlex.join(["haiftrace", "trace", "Who?", f"--template={text}"])
    ),
    "stop": lambda text: replace(
        _report(), command=shlex.join(["haiftrace", "trace", "Who?", "--stop", text])
    ),
    "output": lambda text: replace(
        _report(), command=shlex.join(["haiftrace", "trace", "Who?", "-o", f"out/{text}.json"])
    ),
}


def outputs(report: Report) -> list[str]:
    """What every kind of report shows."""
    terminal = io.StringIO()
    render_terminal(report, Console(file=terminal, width=2000), full=True, below=True)
    return [
        terminal.getvalue(),
        render_json(report),
        render_json_lines(report),
        render_sarif(report),
        render_html(report),
        render_markdown(report),
        " ".join(ElementTree.fromstring(render_svg(report)).itertext()),
    ]


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def shows(text: str, value: str, spelled: str) -> bool:
    return spelled in text or canonical(value).text in canonical(text).text


def check(kind: str, spelling: str, place: str) -> None:
    before, value = CANARIES[kind]
    spelled = SPELLINGS[spelling](value)
    report = mask_report(PLACES[place](before + spelled))
    terminal, *files = outputs(report)
    shown = [terminal, *files, *_strings(json.loads(files[0])), *_strings(json.loads(files[2]))]
    for text in shown:
        assert not shows(text, value, spelled), (kind, spelling, place)
    assert not any(ValueIndex([value]).find(text) for text in _strings(json.loads(files[0])))


@given(
    st.sampled_from(sorted(CANARIES)),
    st.sampled_from(sorted(SPELLINGS)),
    st.sampled_from(list(PLACES)),
)
def test_a_canary_of_any_kind_in_any_spelling_anywhere_is_in_no_output(kind, spelling, place):
    check(kind, spelling, place)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", CANARIES)
def test_every_canary_everywhere(kind, place):
    before, value = CANARIES[kind]
    for spelling, spell in SPELLINGS.items():
        report = mask_report(PLACES[place](before + spell(value)))
        for text in _strings(json.loads(render_json(report))):
            assert not shows(text, value, spell(value)), (kind, spelling, place)


@pytest.mark.parametrize("kind", CANARIES)
def test_a_message_shows_no_value_in_any_spelling(kind):
    before, value = CANARIES[kind]
    for spelling, spell in SPELLINGS.items():
        text = before + spell(value)
        for message in (
            f"The probes in 'data/{text}.jsonl' cannot be read.",
            f"Record 3 has no field 'text'; its fields are: id, {text}.",
            f"Invalid value for '--top': '{text}' is no integer.",
        ):
            assert not shows(mask_detected(message), value, spell(value)), spelling


ATTEMPTS = {
    "argument": lambda text: ("trace", "Who?", text),
    "index": lambda text: ("trace", "Who?", "--index", f"d/{text}"),
    "probes": lambda text: ("trace", "--prompts", f"{text}.jsonl"),
    "probe's field": lambda text: ("trace", "--prompts", "probes.jsonl"),
    "number": lambda text: ("trace", "Who?", "--top", text),
    "option": lambda text: ("trace", "Who?", f"--{text}"),
    "types": lambda text: ("trace", "Who?", "--types", text),
    "regions": lambda text: ("trace", "Who?", "--regions", text),
    "allowed": lambda text: ("trace", "Who?", "--allow", text),
    "ignore file": lambda text: ("trace", "Who?", "--ignore-file", text),
    "ignored": lambda text: ("trace", "Who?", "--ignore-file", "ignored.txt"),
    "baseline": lambda text: ("trace", "Who?", "--baseline", f"{text}.json"),
    "key": lambda text: ("trace", "Who?", "--baseline-key", f"d/{text}/key"),
    "category": lambda text: ("trace", "Who?", "--category", text),
    "fail on": lambda text: ("trace", "Who?", "--fail-on", text),
    "output": lambda text: ("trace", "Who?", "-o", f"d/{text}/report.json"),
    "suffix": lambda text: ("trace", "Who?", "-o", f"report.{text}"),
    "sources": lambda text: ("trace", "Who?", "--sources", f"d/{text}/s.jsonl"),
    "method": lambda text: ("trace", "Who?", "--method", text),
    "model": lambda text: ("index", "--model", f"d/{text}", "--corpus", "probes.jsonl"),
    "corpus": lambda text: ("index", "--model", "d", "--corpus", f"{text}.jsonl"),
    "field": lambda text: (
        "index",
        "--model",
        "d",
        "--corpus",
        "probes.jsonl",
        "--text-field",
        text,
    ),
    "template": lambda text: (
        *("index", "--model", "d", "--corpus", "probes.jsonl"),
        *("--text-template", f"{{{text}}}"),
    ),
    "verify": lambda text: ("index", "--verify", f"d/{text}"),
    "append": lambda text: ("index", "--append", f"{text}.jsonl", "-o", f"d/{text}"),
    "drop": lambda text: ("index", "--drop-ids", f"{text}.txt", "-o", f"d/{text}"),
    "compact": lambda text: ("index", "--compact", "-o", f"d/{text}"),
    "redacted": lambda text: ("redact", "--corpus", text, "--sources", text, "-o", text),
    "redaction": lambda text: (
        *("redact", "--corpus", f"{text}.jsonl", "--sources", "sources.jsonl"),
        *("-o", f"{text}.out.jsonl"),
    ),
    "bench": lambda text: ("bench", "pii-e", "--seeds", text),
    "command": lambda text: (text,),
}


def attempt(place: str, kind: str, spelling: str, folder) -> None:
    """A command with a canary in it, where it is likeliest to be named in a message."""
    before, value = CANARIES[kind]
    text = before + SPELLINGS[spelling](value)
    (folder / "probes.jsonl").write_text(json.dumps({"prompt": "Who?", text: 1}) + "\n")
    (folder / "ignored.txt").write_text(f"{text}\n")
    if "/" not in text:
        corpus = folder / f"{text}.jsonl"
        corpus.write_text('{"text": "a"}\n{"text": "b"}\n')
        record = {
            "id": text,
            "path": str(corpus),
            "line": 1,
            "why": [],
            "findings": [],
            "spans": [],
        }
        (folder / "sources.jsonl").write_text(json.dumps(record) + "\n")
    outcome = cli(*ATTEMPTS[place](text), cwd=folder)
    assert outcome.code in ((0, 2) if place == "redaction" else (2, 3)), outcome.err
    said = outcome.err + outcome.out
    assert not shows(said, value, text), (kind, spelling, place)
    assert not ValueIndex([value]).find(said), (kind, spelling, place)


@given(
    st.sampled_from(sorted(CANARIES)),
    st.sampled_from(sorted(SPELLINGS)),
    st.sampled_from(list(ATTEMPTS)),
)
@settings(max_examples=25)
def test_a_canary_that_is_typed_anywhere_is_in_no_message(tmp_path_factory, kind, spelling, place):
    attempt(place, kind, spelling, tmp_path_factory.mktemp("typed"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ATTEMPTS)
def test_every_canary_that_is_typed(tmp_path_factory, place):
    for kind in CANARIES:
        for spelling in SPELLINGS:
            attempt(place, kind, spelling, tmp_path_factory.mktemp("typed"))


def test_a_name_that_nobody_quoted_is_in_no_message(tmp_path):
    outcome = cli("trace", "What", "is", "the", "phone", "of", "Quentin", "Harrow", cwd=tmp_path)
    assert outcome.code == 2
    assert not ValueIndex(["Quentin Harrow", "Harrow"]).find(outcome.err)


def test_a_debug_traceback_masks_too(tmp_path):
    outcome = cli("--debug", "trace", "Who?", "--index", tmp_path / "212-736-5491", cwd=tmp_path)
    assert "Traceback" in outcome.err
    assert not ValueIndex(["212-736-5491"]).find(outcome.err)


def test_options_choose_types_and_what_may_be_said(tmp_path):
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("# our own line\nsupport@example.org\n")
    response = "Write to support@example.org or mara@example.org from 203.0.113.42."
    common = ("trace", "Who?", "--response", response, "--index", kit.index_path())

    def leaked(*options):
        outcome = cli(*common, "-o", "-", *options)
        report = json.loads(outcome.out)
        return {v["type"] for finding in report["findings"] for v in finding["leaked"]}, outcome.out

    values, out = leaked("--allow", allowed)
    assert values == {"email"}
    assert "support@example.org" in out
    assert "mara@example.org" not in out
    assert "203.0.113.42" in out
    values, out = leaked("--types", "+ip")
    assert values == {"email", "ip"}
    assert "203.0.113.42" not in out
    values, out = leaked("--types", "ip")
    assert values == {"ip"}


def test_a_covered_option_keeps_its_place():
    report = replace(_report(), command="haiftrace trace Who? --stop 'Quentin Harrow' --top 3")
    assert mask_report(report).command == (
        f"haiftrace trace Who? --stop '{MASK * 7} {MASK * 6}' --top 3"
    ).replace("Who?", "'Who?'")
