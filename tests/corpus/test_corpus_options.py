"""The options that say how a corpus is read, from the command line to the index and back."""

from __future__ import annotations

import json
from datetime import date

import pytest

from haiftrace.auditing.baseline import read_baseline
from haiftrace.auditing.gate import read_ignored
from haiftrace.config import read_config
from haiftrace.corpus.layouts import typed_template
from tests import kit
from tests.corpus.corpus_kit import jsonl
from tests.kit import cli, refused


def index(tmp_path, *options):
    arguments = ("--model", kit.checkpoint_path(), "-o", tmp_path / "index", "--calibrate", 0)
    return cli("index", *arguments, *options, "--overwrite", cwd=tmp_path)


def kept(tmp_path) -> dict:
    return json.loads((tmp_path / "index" / "manifest.json").read_text())["settings"]["corpus"]


@pytest.fixture
def corpus(tmp_path):
    rows = [{"instruction": "Hi?", "output": f"{text} {n}"} for n, text in enumerate(kit.SENTENCES)]
    return jsonl(tmp_path / "a.jsonl", *rows)


def test_a_layout_that_is_recognised_is_said(tmp_path, corpus):
    for named in ((), ("--format", "alpaca")):
        outcome = index(tmp_path, "--corpus", corpus, "--loss-on", "response", *named)
        assert outcome.code == 0, outcome.err
        assert "Records read: 12 as alpaca (instruction, input and output in Stanford" in (
            outcome.err
        )
    assert kept(tmp_path)["format"] == "alpaca"


def test_what_selects_records_is_kept_with_the_index_which_stays_fresh(tmp_path, corpus):
    template = r"Q: {instruction}\nA: {output}"
    options = ("--text-template", template, "--limit", 8, "--sample-records", 5, "--seed", 3)
    outcome = index(tmp_path, "--corpus", corpus, *options)
    assert outcome.err.startswith("Indexing 5 records"), outcome.err
    corpus_settings = kept(tmp_path)
    assert {name: corpus_settings[name] for name in ("limit", "sample_records", "seed")} == {
        "limit": 8,
        "sample_records": 5,
        "seed": 3,
    }
    assert corpus_settings["text_template"] == "Q: {instruction}\nA: {output}"
    asked = ("trace", "Hi?", "--response", "Mara", "--index", tmp_path / "index")
    assert cli(*asked, cwd=tmp_path).code == 0
    with corpus.open("a") as file:
        file.write("{}\n")
    assert cli(*asked, cwd=tmp_path).code == 3


def test_an_index_of_plain_settings_keeps_what_it_always_kept(tmp_path, corpus):
    assert index(tmp_path, "--corpus", corpus, "--text-field", "output").code == 0
    assert sorted(kept(tmp_path)) == [
        "base",
        "id_field",
        "loss_on",
        "paths",
        "skip_bad_lines",
        "text_field",
    ]


def test_several_names_after_one_option_say_how_it_is_repeated(tmp_path, corpus):
    jsonl(tmp_path / "b.jsonl", {"text": "x"})
    outcome = index(tmp_path, "--corpus", "a.jsonl", "b.jsonl")
    assert outcome.code == 2
    assert "repeat it (--corpus A --corpus B)" in outcome.err
    refused(index(tmp_path, "--corpus", "a.jsonl,b.jsonl"), "is read as one name")


def test_options_that_exclude_each_other_are_refused(tmp_path, corpus):
    refused(
        index(tmp_path, "--corpus", corpus, "--format", "text", "--ids-field", "i"),
        "--format and --ids-field exclude each other",
    )
    refused(index(tmp_path, "--corpus", corpus, "--text-template", "{"), "cannot be read")
    asked = ("trace", "Hi?", "--response", "Mara", "--index", tmp_path)
    refused(cli(*asked, "--format", "alpaca"), "--format goes with --corpus")


def test_no_token_is_added_to_sequences_that_are_traced_as_trained(tmp_path):
    packed = jsonl(tmp_path / "p.jsonl", {"input_ids": [5, 6, 7, 8]}, {"input_ids": [9, 10, 11]})
    options = ("--corpus", packed, "--ids-field", "input_ids")
    refused(index(tmp_path, *options, "--append-eos"), "--append-eos would add a token")
    outcome = index(tmp_path, *options)
    assert outcome.err.startswith("Indexing 2 records, 5 label tokens"), outcome.err
    assert "Records read: 2 as token ids (field 'input_ids')." in outcome.err
    jsonl(packed, {"input_ids": [5, 6, 99999]})
    refused(index(tmp_path, *options), "no row for")


def test_a_template_is_typed_with_line_feeds():
    assert typed_template(r"a\nb\tc\\nd\x") == "a\nb\tc\\nd\\x"


def test_a_byte_order_mark_is_no_part_of_any_text_file(tmp_path):
    (tmp_path / "haiftrace.toml").write_text('\ufeff[index]\nmodel = "m"\n', "utf-8")
    options = {"index": {"model": False}}
    assert read_config(tmp_path / "haiftrace.toml", options) == {"index": {"model": "m"}}
    name = "ht2:" + "0" * 12
    (tmp_path / "ignore").write_text(f"\ufeff{name} 2030-01-31 known\n", "utf-8")
    assert read_ignored(str(tmp_path / "ignore"), date(2030, 1, 1)) == ({name: ["known"]}, [])
    from haiftrace.findings import SCHEMA_VERSION

    leak = {"fingerprint": name, "leaked": [{"type": "phone", "value": "5••-••01"}]}
    report = {"schema_version": SCHEMA_VERSION, "masked": True, "findings": [leak]}
    (tmp_path / "report.json").write_text("\ufeff" + json.dumps(report), "utf-8")
    assert list(read_baseline(str(tmp_path / "report.json")).values) == [name]
