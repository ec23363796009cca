"""Reports read again: nothing is lost, version 1 is converted, and what is damaged is refused."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from haiftrace.errors import UsageError
from haiftrace.findings import Report
from haiftrace.gate_outcome import BaselineComparison, ComparedLeak, GoneLeak, ReportComparison
from haiftrace.reports import render_terminal
from haiftrace.reports.json_report import render_json, render_json_lines
from haiftrace.reports.loaded_report import read_reports, report_of_json
from haiftrace.reports.outputs import RENDERERS
from tests.reports.finding_samples import english_finding, paired_finding
from tests.reports.leak_samples import traced_finding
from tests.reports.report_samples import audit_findings, audit_report, gate_of, report_of


def whole_report() -> Report:
    """Every field set somewhere, no half surrogate (which no file holds)."""
    findings = (*audit_findings(), english_finding(), paired_finding())
    known = BaselineComparison(2, 1, False, (GoneLeak("ht2:0123456789ab", "p1", "phone"),))
    leak = ComparedLeak("gone", "ht2:00", "p", "phone", "5••", before="verbatim")
    return report_of(
        *findings,
        gate=gate_of(*findings, baseline=known),
        masked=True,
        comparison=ReportComparison("sha256:3f2a", "sha256:91bc", None, True, (leak,)),
    )


def loaded(report: Report, *, full: bool = True) -> Report:
    return report_of_json(json.loads(render_json(report, full=full)), "a.json")


def terminal(report: Report) -> str:
    out = io.StringIO()
    render_terminal(report, Console(file=out, width=100), full=True, below=True, verbose=True)
    return out.getvalue()


def refused(path: Path | str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_reports(str(path))
    assert caught.value.hint
    return caught.value


def test_a_full_report_is_read_as_it_was() -> None:
    report = whole_report()
    assert loaded(report) == report
    assert loaded(report_of()) == report_of()


@pytest.mark.parametrize("suffix", [".md", ".sarif", ".json", ".jsonl"])
def test_a_short_report_renders_as_the_run_did(suffix: str) -> None:
    for report in (whole_report(), audit_report(), report_of(traced_finding())):
        assert RENDERERS[suffix](loaded(report, full=False)) == RENDERERS[suffix](report)


def test_a_full_report_renders_every_format_as_the_run_did() -> None:
    report = whole_report()
    for suffix, render in RENDERERS.items():
        assert render(loaded(report)) == render(report), suffix
    assert terminal(loaded(report)) == terminal(report)


def test_lines_are_read_a_report_for_each_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    first, second = whole_report(), report_of(english_finding())
    path.write_text(
        render_json_lines(first, full=True) + render_json_lines(second, full=True), "utf-8"
    )
    assert read_reports(str(path)) == [first, second]
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), "utf-8")
    assert "is no" in refused(path).message
    other = lines[1].replace("sha256:91bc", "sha256:else")
    path.write_text(lines[0] + other, "utf-8")
    assert "runs.jsonl:2" in refused(path).message


def test_version_1_is_converted(tmp_path: Path) -> None:
    document = json.loads(render_json(replace(whole_report(), comparison=None), full=True))
    document["schema_version"] = 1
    del document["comparison"]
    for finding in document["findings"]:
        for key in ("holders", "asked", "value_number", "value_digest", "asking", "frequency"):
            del finding[key]  # which early reports of version 1 did not have
        for record in finding["records"]:
            del record["shown"]
    path = tmp_path / "old.json"
    path.write_text("\ufeff" + json.dumps(document), "utf-8")
    (report,) = read_reports(str(path))
    assert report == replace(whole_report(), comparison=None)
    document["schema_version"] = 2
    assert "findings[0].holders is missing" in _message(document)


def _message(document: Any) -> str:
    with pytest.raises(UsageError) as caught:
        report_of_json(document, "a.json")
    return caught.value.message


@pytest.mark.parametrize(
    ("path", "bad", "said"),
    [
        (("schema_version",), 3, "has schema version 3; this version of haiftrace reads 1 to 2"),
        (("schema_version",), True, "is no report of haiftrace"),
        (("findings",), {}, "findings is no list"),
        (("findings", 0), None, "findings[0] is no object"),
        (("findings", 0, "prompt"), 5, "findings[0].prompt is no text"),
        (("findings", 0, "kind"), "secret", "findings[0].kind is none of verbatim"),
        (("findings", 0, "mean_loss"), "5", "findings[0].mean_loss is no finite number"),
        (("findings", 0, "mean_loss"), 10**400, "findings[0].mean_loss is no finite number"),
        (("findings", 0, "generated"), 1, "findings[0].generated is not true or false"),
        (("findings", 0, "verdict", "alpha"), 1, "findings[0].verdict.alpha is no rate"),
        (("findings", 0, "verdict", "p_value"), 7.5, "findings[0].verdict.p_value is no prob"),
        (("findings", 0, "verdict", "null", "edges"), [1.0], "findings[0].verdict.null.edges is"),
        (("findings", 0, "records", 0, "rank"), 0, "findings[0].records[0].rank is no rank"),
        (("findings", 0, "records", 0, "p_value"), -1, "findings[0].records[0].p_value is no"),
        (
            ("findings", 0, "records", 0, "tokens", 1, "end"),
            10_000,
            "findings[0].records[0].tokens[1] is no part of the record's text",
        ),
        (("findings", 0, "records", 0, "tokens", 1, "start"), -1, "tokens[1].start is no count"),
        (("model", "parameters"), 2**70, "model.parameters is no count"),
        (("gate", "exit_code"), None, "gate.exit_code is no count"),
        (("settings",), {"secret 555-0134": []}, "settings[0] is no text, finite number"),
    ],
)
def test_what_is_damaged_is_named_and_not_quoted(
    path: tuple[Any, ...], bad: Any, said: str
) -> None:
    document = json.loads(render_json(audit_report()))
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = bad
    message = _message(document)
    assert said in message
    assert "secret" not in message
    assert "555" not in message


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"   \n",
            b"{",
            b"[]",
            b"5",
            b"null",
            b'"text"',
            b"{}",
            b"# A page\n",
            b"\xff\xfe\x00",
        ),
        *(b'{"schema_version": 2}', b'{"schema_version": 2, "findings": [NaN]}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"schema_version": ' + b"9" * 5_000 + b"}"),
        b'{"version": "2.1.0", "runs": []}',
        b'{"type": "run"}\n{"type": "finding"}\n',
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert "a.json" in refused(path).message


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.json").message
    assert "directory" in refused(tmp_path).message
    path = tmp_path / "cut.json"
    path.write_text(render_json(audit_report())[:5_000], "utf-8")
    assert re.search(r"is no JSON: see line \d+, column \d+", refused(path).message)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


_DOCUMENT = json.loads(render_json(whole_report()))
_PLACES = sum(1 for _ in _places(_DOCUMENT))
odd = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        5,
        2**62,
        1e199,
        -0.5,
        "",
        "a\x00\u202e",
        "•",
        [],
        {},
        [[]],
        "verbatim",
        0.5,
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, _PLACES - 1), odd), min_size=1, max_size=4), st.booleans())
def test_whatever_is_changed_is_refused_or_rendered(
    changes: list[tuple[int, Any]], removed: bool
) -> None:
    document = copy.deepcopy(_DOCUMENT)
    for number, bad in changes:
        container, key = list(_places(document))[number % sum(1 for _ in _places(document))]
        if removed:
            del container[key]
            break
        container[key] = bad
    try:
        report = report_of_json(document, "a.json")
    except UsageError:
        return
    for render in RENDERERS.values():
        assert render(report)
    assert terminal(report)
