"""The JSON report and its schema."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.errors import OutputError
from haiftrace.reports.json_report import render_json
from tests.reports.finding_samples import english_finding, hostile_finding, paired_finding
from tests.reports.leak_samples import traced_finding, traced_verdict
from tests.reports.record_samples import ENGLISH, paired
from tests.reports.report_samples import report_of, whole_report

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
        (("schema_version",), 1),
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
        (("findings", -1, "records", 0, "pairs", 0, "response_positions"), []),
        (("findings", -1, "records", 0, "pairs", 0, "record_positions"), []),
        (("findings", -1, "records", 0, "layers"), None),
        (("findings", -1, "records", 0, "layers", 0), "0.1"),
        (("findings", -1, "records", 0, "layers", 0), -0.1),
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
    document = json.loads(render_json(report, full=True))
    assert_shape(document, FIXED)
    assert document["schema_version"] == 2
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


def test_records_that_chance_may_rank_keep_their_text_and_no_evidence() -> None:
    report = report_of(traced_finding(), english_finding())
    judged, open_ = json.loads(render_json(report))["findings"]
    assert [record["shown"] for record in judged["records"]] == [True, False, False]
    assert [bool(record["tokens"]) for record in judged["records"]] == [True, False, False]
    assert judged["records"][1]["text"] == report.findings[0].records[1].text
    # Without a verdict nothing says which records to show.
    assert all(record["shown"] and record["tokens"] for record in open_["records"])
    whole, _ = json.loads(render_json(report, full=True))["findings"]
    assert [record["shown"] for record in whole["records"]] == [True, False, False]
    assert all(record["tokens"] for record in whole["records"])


def test_measured_numbers_have_six_digits_and_p_values_are_rounded_up() -> None:
    (first, *others) = traced_finding().records
    record = replace(first, score=1 / 3, cosine=2e-7 / 3, p_value=1 / 513)
    alpha = 0.012345678
    verdict = traced_verdict(alpha=alpha, p_value=1 / 3)
    finding = replace(traced_finding(), records=(record, *others), verdict=verdict)
    report = replace(report_of(finding), settings={"damping": 1 / 3}, seconds=12.3456789)
    document = json.loads(render_json(report))
    written = document["findings"][0]
    assert (written["records"][0]["score"], written["records"][0]["cosine"]) == (
        0.333333,
        6.66667e-08,
    )
    assert 1 / 513 < written["records"][0]["p_value"] == 0.00194932
    assert (written["verdict"]["p_value"], written["verdict"]["alpha"]) == (0.333334, alpha)
    assert (document["settings"], document["seconds"]) == ({"damping": 1 / 3}, 12.3457)
    exact = json.loads(render_json(report, full=True))
    assert exact["findings"][0]["records"][0]["score"] == 1 / 3


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.001]))
def test_rounding_moves_no_p_value_to_the_other_side_of_alpha(n: int, k: int, alpha: float) -> None:
    p = min((1 + k) / (1 + n), 1.0)
    finding = replace(english_finding(), verdict=traced_verdict(p_value=p, alpha=alpha))
    written = json.loads(render_json(report_of(finding)))["findings"][0]["verdict"]["p_value"]
    assert (written <= alpha) == (p <= alpha)
    assert p <= written <= min(p * (1 + 1e-5), 1.0)


def test_pairs_are_written_as_they_are_and_point_at_tokens() -> None:
    report = report_of(paired_finding(), english_finding())
    document = json.loads(render_json(report, full=True))
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
    assert [r["pairs"] for r in document["findings"][1]["records"]] == [[], [], []]


def test_the_evidence_of_layers_is_written_as_it_is() -> None:
    report = report_of(paired_finding(), english_finding())
    judged, other = json.loads(render_json(report, full=True))["findings"]
    for written, found in zip(judged["records"], report.findings[0].records, strict=True):
        assert written["layers"] == list(found.layers)
        assert sum(written["layers"]) == pytest.approx(written["score"])
    assert [record["layers"] for record in other["records"]] == [[], [], []]


@pytest.mark.parametrize("key", ["layers", "pairs"])
def test_a_record_without_its_layers_or_pairs_fits_no_schema(key: str) -> None:
    document = json.loads(render_json(report_of(paired_finding())))
    del document["findings"][0]["records"][0][key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        jsonschema.Draft202012Validator(schema()).validate(document)


def test_a_layer_that_is_no_number_is_not_written() -> None:
    (record, _) = paired_finding().records
    bad = replace(record, layers=(0.1, math.nan))
    with pytest.raises(OutputError, match=r"records\[0\]\.layers\[1\]"):
        render_json(report_of(paired_finding(records=(bad,))))


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
    document = json.loads(render_json(report, full=True))
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
