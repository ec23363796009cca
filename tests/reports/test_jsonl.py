"""The JSONL report: the run's line, then a line a finding, each fitting its schema by itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from haiftrace.errors import OutputError
from haiftrace.findings import Report
from haiftrace.reports import write_report
from haiftrace.reports.json_report import render_json, render_json_lines
from tests.reports.finding_samples import hostile_finding
from tests.reports.leak_samples import markup_finding
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of


def schema(name: str) -> dict[str, Any]:
    text = files("haiftrace.reports").joinpath(name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def line_validator() -> jsonschema.Draft202012Validator:
    report = schema("report.schema.json")
    registry: Registry[Any] = Registry().with_resource(
        report["$id"], Resource.from_contents(report)
    )
    lines = schema("report-lines.schema.json")
    jsonschema.Draft202012Validator.check_schema(lines)
    return jsonschema.Draft202012Validator(lines, registry=registry)


def lines_of(report: Report) -> list[dict[str, Any]]:
    text = render_json_lines(report)
    assert text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def whole_report() -> Report:
    findings = (*audit_findings(), hostile_finding(), markup_finding())
    return report_of(*findings, gate=gate_of(*findings), masked=True)


def test_every_line_fits_the_schema_by_itself() -> None:
    validator = line_validator()
    run, *findings = lines_of(whole_report())
    for line in (run, *findings):
        validator.validate(line)
    assert run["type"] == "run"
    assert {line["type"] for line in findings} == {"finding"}
    validator.validate(*lines_of(report_of()))


@pytest.mark.parametrize(
    ("number", "path", "bad"),
    [
        (0, ("type",), "else"),
        (0, ("gate", "leaks"), -1),
        (0, ("findings",), []),
        (1, ("schema_version",), 1),
        (1, ("model_fingerprint",), None),
        (1, ("records", 0, "rank"), 0),
        (1, ("kind",), "else"),
    ],
)
def test_the_schema_refuses_another_shape(number: int, path: tuple[Any, ...], bad: Any) -> None:
    line = lines_of(whole_report())[number]
    node: Any = line
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = bad
    with pytest.raises(jsonschema.ValidationError):
        line_validator().validate(line)


def test_the_lines_hold_what_the_document_holds() -> None:
    report = whole_report()
    document = json.loads(render_json(report))
    run, *findings = lines_of(report)
    assert {"type": "run", **{k: v for k, v in document.items() if k != "findings"}} == run
    own = {"type", "schema_version", "model_fingerprint", "corpus_fingerprint", "masked"}
    assert [{k: v for k, v in f.items() if k not in own} for f in findings] == document["findings"]
    assert {f["model_fingerprint"] for f in findings} == {"sha256:3f2a"}
    assert {f["corpus_fingerprint"] for f in findings} == {"sha256:91bc"}


def test_no_text_breaks_a_line_or_steers_a_terminal() -> None:
    report = whole_report()
    text = render_json_lines(report)
    assert len(text.splitlines()) == 1 + len(report.findings)
    for character in "\x1b\x07\x7f\x9b\u202e\u200b\u2028":
        assert character not in text


def test_a_number_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(OutputError, match="seconds"):
        render_json_lines(replace(report_of(), seconds=math.inf))


def test_the_suffix_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write_report(audit_report(), path)
    assert path.read_text(encoding="utf-8") == render_json_lines(audit_report())
