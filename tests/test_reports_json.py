"""The JSON report, its schema, and report files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.errors import EXIT_ERROR, OutputError
from haiftrace.findings import Report
from haiftrace.reports import check_outputs, outputs, write_report
from haiftrace.reports.json_report import render_json
from tests.report_samples import (
    ENGLISH,
    asked_as_one_finding,
    audit_findings,
    chinese_finding,
    english_finding,
    gate_of,
    hostile_finding,
    markup_finding,
    paired,
    paired_finding,
    report_of,
)

# The shape that other programs rely on: these keys of each object, with these types.
FIXED: dict[str, Any] = {
    "schema_version": int,
    "model": dict,
    "index": dict,
    "findings": [
        {
            "prompt": str,
            "response": str,
            "method": str,
            "records": [
                {
                    "rank": int,
                    "id": str,
                    "source": {"path": str, "line": (int, type(None))},
                    "score": float,
                    "cosine": float,
                    "text": str,
                    "tokens": [
                        {
                            "position": int,
                            "token_id": (int, type(None)),
                            "text": str,
                            "loss": float,
                            "grad_norm": float,
                            "evidence": float,
                        }
                    ],
                }
            ],
        }
    ],
}


def schema() -> dict[str, Any]:
    text = files("haiftrace.reports").joinpath("report.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def closed(node: Any) -> Any:
    """The schema with every described object closed: a key that it does not describe fails."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: closed(value) for key, value in node.items()}
    if "properties" in inner:
        inner.setdefault("additionalProperties", False)
    return inner


def whole_report() -> Report:
    return report_of(
        english_finding(),
        chinese_finding(),
        hostile_finding(),
        english_finding(records=(), response_tokens=(), span=None),
        *audit_findings(),
        markup_finding(),
        asked_as_one_finding(),
        paired_finding(),
        gate=gate_of(*audit_findings()),
        masked=True,
    )


def assert_shape(value: Any, shape: Any) -> None:
    if isinstance(shape, dict):
        for key, inner in shape.items():
            assert_shape(value[key], inner)
    elif isinstance(shape, list):
        assert isinstance(value, list)
        for item in value:
            assert_shape(item, shape[0])
    else:
        assert isinstance(value, shape)


def test_the_report_fits_its_schema_and_the_schema_describes_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    document = json.loads(render_json(whole_report()))
    jsonschema.Draft202012Validator(schema()).validate(document)
    jsonschema.Draft202012Validator(closed(schema())).validate(document)
    empty = json.loads(render_json(report_of()))
    jsonschema.Draft202012Validator(closed(schema())).validate(empty)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        (("schema_version",), 2),
        (("findings", 0, "records", 0, "score"), "0.4"),
        (("findings", 0, "records", 0, "rank"), 0),
        (("findings", 0, "records", 0, "source", "line"), 0),
        (("findings", 0, "records", 0, "tokens", 0, "evidence"), None),
        (("findings", 0, "prompt"), None),
        (("masked",), None),
        (("gate", "leaks"), -1),
        (("findings", 4, "kind"), "else"),
        (("findings", 4, "verdict", "p_value"), 1.5),
        (("findings", 4, "verdict", "null", "counts", 0), -1),
        (("findings", 4, "probe", "line"), 0),
        (("findings", -1, "records", 0, "pairs"), None),
        (("findings", -1, "records", 0, "pairs", 0, "evidence"), "0.1"),
        (("findings", -1, "records", 0, "pairs", 0, "response_text"), None),
        (("findings", -1, "records", 0, "pairs", 0, "response_positions"), [-1]),
        (("findings", -1, "records", 0, "pairs", 0, "record_positions"), []),
    ],
)
def test_the_schema_refuses_another_shape(path: tuple[Any, ...], bad: Any) -> None:
    document = json.loads(render_json(whole_report()))
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = bad
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(document)


def test_the_fixed_shape_holds_and_the_values_are_the_findings() -> None:
    report = whole_report()
    document = json.loads(render_json(report))
    assert_shape(document, FIXED)
    assert document["schema_version"] == 1
    record, found = document["findings"][0]["records"][0], report.findings[0].records[0]
    assert record["source"] == {"path": "corpus/people.jsonl", "line": 17}
    assert (record["score"], record["cosine"], record["text"]) == (
        found.score,
        found.cosine,
        found.text,
    )
    assert record["tokens"][3] == {
        "position": 3,
        "token_id": 1003,
        "text": " born",
        "start": 12,
        "end": 17,
        "loss": 0.75,
        "grad_norm": 4.5,
        "evidence": -0.002,
    }
    for finding in document["findings"]:
        for item in finding["records"]:
            total = sum(token["evidence"] for token in item["tokens"])
            assert total == pytest.approx(item["score"])


def test_pairs_are_written_as_they_are_and_point_at_tokens() -> None:
    report = report_of(paired_finding(), asked_as_one_finding(), english_finding())
    document = json.loads(render_json(report))
    finding = document["findings"][0]
    record = finding["records"][0]
    found = report.findings[0].records[0].pairs
    assert record["pairs"][0] == {
        "response_text": "555-0134.",
        "response_positions": [40],
        "record_text": "555-0134.",
        "record_positions": list(found[0].record_positions),
        "start": ENGLISH.index("555-0134"),
        "end": ENGLISH.index("555-0134") + 9,
        "evidence": found[0].evidence,
    }
    assert [pair["evidence"] for pair in record["pairs"]] == [pair.evidence for pair in found]
    said = {token["position"]: token["text"] for token in finding["response_tokens"]}
    tokens = {token["position"]: token for token in record["tokens"]}
    for pair in record["pairs"]:
        assert said[pair["response_positions"][0]].strip() in pair["response_text"]
        spelled = "".join(tokens[place]["text"] for place in pair["record_positions"])
        assert spelled.strip() == pair["record_text"]
        assert record["text"][pair["start"] : pair["end"]] == pair["record_text"]
    as_one = document["findings"][1]["records"][0]["pairs"]
    assert {(p["response_text"], tuple(p["response_positions"])) for p in as_one} == {("", ())}
    assert [r["pairs"] for r in document["findings"][2]["records"]] == [[], [], []]


def test_a_pair_that_is_no_number_is_not_written() -> None:
    (record, _) = paired_finding().records
    bad = paired(record, ("555", 40, "phone:", math.nan))
    with pytest.raises(OutputError, match=r"pairs\[0\]\.evidence"):
        render_json(report_of(paired_finding(records=(bad,))))


def test_masked_and_missing_values_are_null() -> None:
    finding = english_finding()
    record = finding.records[0]
    masked = replace(
        record,
        source=replace(record.source, line=None),
        tokens=(replace(record.tokens[0], token_id=None),),
    )
    document = json.loads(render_json(report_of(replace(finding, records=(masked,), span=None))))
    jsonschema.Draft202012Validator(schema()).validate(document)
    (written,) = document["findings"][0]["records"]
    assert written["source"]["line"] is None
    assert written["tokens"][0]["token_id"] is None
    assert document["findings"][0]["span"] is None


def test_a_verdict_and_a_gate_are_written_as_they_are() -> None:
    report = whole_report()
    document = json.loads(render_json(report))
    finding, found = document["findings"][4], report.findings[4]
    assert found.verdict is not None
    assert found.verdict.null is not None
    assert finding["verdict"]["p_value"] == found.verdict.p_value
    assert finding["verdict"]["null"]["counts"] == list(found.verdict.null.counts)
    assert finding["leaked"] == [{"type": "phone", "value": "555-0134", "given": True}]
    assert (finding["kind"], finding["fingerprint"]) == (found.kind, found.fingerprint)
    assert finding["records"][0]["p_value"] == found.records[0].p_value
    assert finding["records"][0]["content_hash"] == "00" * 32
    assert document["findings"][7]["suppressed"] == "baseline"
    assert document["gate"]["reasons"] == ["4 leaks, and none is allowed."]
    assert document["masked"] is True
    assert document["findings"][0]["verdict"] is None


def test_keys_stand_in_a_fixed_order_and_a_token_takes_a_line() -> None:
    text = render_json(whole_report())
    assert render_json(whole_report()) == text
    document = json.loads(text)
    assert next(iter(document)) == "schema_version"
    assert list(document["settings"]) == sorted(document["settings"])
    first = next(line for line in text.splitlines() if '" born"' in line)
    assert json.loads(first.strip().rstrip(","))["evidence"] == -0.002
    assert text.endswith("}\n")


def test_text_stays_readable_and_inert() -> None:
    text = render_json(whole_report())
    assert "张伟住在上海市" in text
    assert "\\u001b[31mCLEARED" in text
    raw = text.encode()
    assert b"\x1b" not in raw
    for character in "\x07\x7f\x9b\u202e\u200b":
        assert character not in text
    written = json.loads(text)["findings"][2]["prompt"]
    assert written == hostile_finding().prompt.replace("\ud83d", "�")


@given(st.text(st.characters(codec=None), max_size=40), st.text(max_size=10))
def test_any_text_survives_save_half_surrogates(prompt: str, key: str) -> None:
    report = replace(report_of(english_finding(prompt=prompt, records=())), settings={key: prompt})
    raw = render_json(report).encode()
    assert b"\x1b" not in raw
    document = json.loads(raw)
    expected = "".join("�" if "\ud800" <= char <= "\udfff" else char for char in prompt)
    assert document["findings"][0]["prompt"] == expected
    assert document["settings"] == {key: expected}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error_that_names_its_place(bad: float) -> None:
    finding = english_finding()
    token = replace(finding.records[1].tokens[2], grad_norm=bad)
    record = replace(finding.records[1], tokens=(*finding.records[1].tokens[:2], token))
    report = report_of(replace(finding, records=(finding.records[0], record)))
    with pytest.raises(OutputError) as caught:
        render_json(report)
    assert "findings[0].records[1].tokens[2].grad_norm" in caught.value.message
    assert caught.value.hint
    assert "Maria" not in caught.value.message


def test_a_setting_that_is_not_finite_is_an_error_too() -> None:
    with pytest.raises(OutputError, match=r"settings\.epsilon"):
        render_json(replace(report_of(), settings={"epsilon": math.nan}))


# Report files


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refused(*paths: str | Path) -> OutputError:
    with pytest.raises(OutputError) as caught:
        check_outputs(paths)
    assert caught.value.exit_code == EXIT_ERROR
    assert caught.value.hint
    return caught.value


def test_good_outputs_pass_and_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("kept")
    check_outputs([tmp_path / "a.json", str(tmp_path / "B.JSON"), tmp_path / "old.json", "-"])
    check_outputs([])
    assert names(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    assert "'.pdf'" in refused(tmp_path / "a.pdf").message
    assert ".json" in refused(tmp_path / "a.pdf").message
    assert "without a suffix" in refused(tmp_path / "report").message
    assert "without a suffix" in refused("").message
    with pytest.raises(OutputError):
        write_report(report_of(), tmp_path / "a.pdf")
    assert names(tmp_path) == []


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    assert "is a directory" in refused(tmp_path / "d.json").message
    assert "not a plain file" in refused(tmp_path / "pipe.json").message


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(tmp_path / "none" / "a.json")
    assert "mkdir -p" in error.hint
    assert str(tmp_path / "none") in error.message
    refused(tmp_path / "file" / "a.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "gone" / "a.json")
    assert str(tmp_path / "gone") in refused(tmp_path / "link.json").message
    refused(tmp_path / ("x" * 300 + ".json"))


def test_an_unwritable_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert "read-only" in refused(tmp_path / "a.json").message

    def forbid(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", forbid)
    assert "Permission denied" in refused(tmp_path / "new.json").message


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        refused(tmp_path / "a.json")
    finally:
        tmp_path.chmod(0o700)


def test_the_same_path_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "same place" in refused("a.json", "./a.json").message
    assert "same place" in refused("a.json", tmp_path / "a.json").message
    refused("-", "-")
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    refused("a.json", "link.json")


def test_a_report_is_written_whole_private_and_over_a_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("former")
    path.chmod(0o644)
    write_report(whole_report(), path)
    assert path.read_text(encoding="utf-8") == render_json(whole_report())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["a.json"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "deep" / "real.json")
    check_outputs([tmp_path / "link.json"])
    write_report(report_of(), str(tmp_path / "link.json"))
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "deep" / "real.json").read_text())["findings"] == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_former_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    path = tmp_path / "a.json"
    path.write_text("former")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_report(report_of(), path)
    if isinstance(caught.value, OutputError):
        assert "No space left" in caught.value.message
    assert names(tmp_path) == ["a.json"]
    assert path.read_text() == "former"


def test_a_report_that_cannot_be_rendered_touches_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report(replace(report_of(), seconds=math.nan), tmp_path / "a.json")
    assert names(tmp_path) == []


def test_a_dash_is_json_on_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_report(whole_report(), "-")
    out, err = capfdbinary.readouterr()
    assert out == render_json(whole_report()).encode()
    assert err == b""


def test_a_closed_stdout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed_pipe:
        monkeypatch.setattr("sys.stdout", closed_pipe)
        with pytest.raises(OutputError, match="stdout"):
            write_report(whole_report(), "-")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed_pipe.fileno())


def test_a_format_is_added_by_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(outputs.RENDERERS, ".txt", lambda report: f"{len(report.findings)} found\n")
    check_outputs([tmp_path / "a.txt", tmp_path / "a.json"])
    write_report(whole_report(), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == f"{len(whole_report().findings)} found\n"
