"""What `index` is given wrong: one paragraph, a hint, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests import kit
from tests.commands.cli_kit import PRIVATE, index, nothing_left, with_weight
from tests.kit import PROMPT, cli, misused, refused
from tests.tiny_models import SENTENCES


def corpus_of(tmp_path, *lines, name="data.jsonl"):
    """A corpus of these lines after a good one, as bytes or text."""
    good = json.dumps({"text": SENTENCES[0]})
    raw = [line if isinstance(line, bytes) else line.encode() for line in (good, *lines)]
    (tmp_path / name).write_bytes(b"\n".join(raw) + b"\n")
    return tmp_path / name


# Checkpoints


def as_pickle(path):
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def with_remote_code(path):
    edit_config(path, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (path / "modeling.py").write_text("raise SystemExit('ran')")


def edit_config(path, **values):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


def with_other_vocabulary(path):
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    last = max(content["model"]["vocab"].values())
    content["model"]["vocab"]["zzzz"] = last + 1
    file.write_text(json.dumps(content))


def without(name):
    return lambda path: (path / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (as_pickle, "safetensors"),
        (with_remote_code, "code of its own"),
        (without("config.json"), "no config.json"),
        (without("tokenizer.json"), "tokenizer"),
        (with_weight(float("nan")), "NaN or infinite"),
        (with_weight(float("inf")), "NaN or infinite"),
        (with_other_vocabulary, "do not belong together"),
        (lambda path: edit_config(path, architectures=["GPT2Model"]), "not a causal"),
        (lambda path: edit_config(path, n_embd=64), "do not belong together"),
    ],
    ids=[
        *("pickle", "remote-code", "no-config", "no-tokenizer", "nan", "infinite"),
        *("vocabulary", "not-causal", "other-shapes"),
    ],
)
def test_a_checkpoint_that_cannot_be_traced(tmp_path, spoil, what):
    path = kit.copied_checkpoint(tmp_path / "model")
    spoil(path)
    refused(index(tmp_path, path), what)
    nothing_left(tmp_path)


def test_what_is_no_checkpoint_at_all(tmp_path):
    refused(index(tmp_path, tmp_path / "none"), "no directory")
    refused(index(tmp_path, "some/hub-name"), "no network")
    (tmp_path / "empty").mkdir()
    refused(index(tmp_path, tmp_path / "empty"), "not a checkpoint")
    refused(index(tmp_path, kit.corpus_path()), "is a file")
    nothing_left(tmp_path)


# Corpora


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f'{{"text": "{PRIVATE}', "data.jsonl:2: malformed JSON"),
        (f'{{"body": "{PRIVATE}"}}', "data.jsonl:2: the record has no field 'text'"),
        (f'["{PRIVATE}"]', "data.jsonl:2: a list where an object"),
        ('{"text": 5550199}', "data.jsonl:2: the field 'text' is a number"),
        (f'{{"text": "{PRIVATE} '.encode() + b'\xff"}', "data.jsonl:2: invalid UTF-8"),
        (f'{{"text": "{PRIVATE}\\ud800"}}', "data.jsonl:2: "),
    ],
    ids=["malformed", "no-field", "no-object", "no-string", "not-utf8", "half-a-character"],
)
def test_a_line_that_is_no_record(tmp_path, line, what):
    corpus = corpus_of(tmp_path, line)
    refused(index(tmp_path, corpus=corpus), what, secrets=(PRIVATE, *kit.SECRETS))
    nothing_left(tmp_path)
    skipped = index(tmp_path, None, corpus, "--skip-bad-lines")
    assert skipped.code == 0, skipped.err
    assert "Left out 1 lines that are no record" in skipped.err
    assert what.partition(": ")[0] in skipped.err
    assert PRIVATE not in skipped.err


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        ([], "The corpus is empty"),
        (["", ""], "all 2 are empty"),
        (["M"], "No record of the corpus has a label"),
    ],
)
def test_a_corpus_without_anything_to_index(tmp_path, texts, what):
    corpus = kit.write_corpus(tmp_path / "data.jsonl", texts)
    refused(index(tmp_path, corpus=corpus), what)
    nothing_left(tmp_path)


def test_a_corpus_that_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.xyz").write_text("text")
    for path, what in (
        ("none.jsonl", "no file or directory none.jsonl"),
        ("*.jsonl", "No file matches *.jsonl"),
        (tmp_path / "empty", "holds no corpus file"),
        (tmp_path / "data.xyz", "no known corpus suffix"),
    ):
        refused(index(tmp_path, corpus=path), what)
    nothing_left(tmp_path)


def test_a_mistyped_corpus_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("haiftrace.checkpoint.load.load_checkpoint", None)
    refused(index(tmp_path, corpus="none.jsonl"), "none.jsonl")


def test_empty_one_token_and_overlong_records_among_others(tmp_path):
    texts = [SENTENCES[0], "", "M", " ".join(SENTENCES)]
    corpus = kit.write_corpus(tmp_path / "data.jsonl", texts)
    outcome = index(tmp_path, corpus=corpus)
    assert outcome.code == 0, outcome.err
    assert "Left out 1 empty records and 1 without a token to predict." in outcome.err
    assert "Indexing 2 records in " in outcome.err
    assert ": 2 records, " in outcome.err
    shown = cli("trace", PROMPT, "--index", tmp_path / "index", "-o", "-", "-q")
    found = shown.report["findings"][0]["records"]
    assert sorted(r["id"] for r in found) == ["r0", "r3"]
    (long,) = [r for r in found if r["id"] == "r3"]
    assert long["windows"] > 4


def test_the_same_id_twice(tmp_path):
    record = json.dumps({"id": PRIVATE, "text": SENTENCES[1]})
    corpus = corpus_of(tmp_path, record, record)
    refused(index(tmp_path, corpus=corpus), ":2 and ", ":3 have the same id", secrets=(PRIVATE,))
    nothing_left(tmp_path)


def test_a_response_to_put_the_loss_on_that_is_not_there(tmp_path):
    refused(index(tmp_path, None, None, "--loss-on", "response"), "data.jsonl:1", "no response")
    nothing_left(tmp_path)


# Settings


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--parameters", "nothing_so_called"], "nothing_so_called"),
        (["--parameters", "("], "("),
        (["--device", "tpu"], "No such device"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--dtype", "int8"], "No such dtype"),
        (["--context", "1"], "1 tokens"),
        (["--context", "65"], "65 tokens"),
        (["--whitening-damping", "-1"], "-1 is no damping"),
        (["--token-vectors", "-8"], "-8 dimensions"),
    ],
)
def test_settings_of_index_that_do_not_work(tmp_path, options, what):
    refused(index(tmp_path, None, None, *options), what)
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        ["--memory", "0"],
        ["--memory", "much"],
        ["--loss-on", "prompt"],
        ["--seed", "x"],
        ["--colour"],
        ["surplus"],
    ],
)
def test_misuse_of_index(tmp_path, options):
    misused(index(tmp_path, None, None, *options))
    nothing_left(tmp_path)


def test_index_without_what_it_needs(tmp_path):
    misused(cli("index", cwd=tmp_path), "--model")
    misused(cli("index", "--model", kit.checkpoint_path(), cwd=tmp_path), "--corpus")
    assert not list(tmp_path.iterdir())


def test_an_output_in_the_way(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        refused(index(tmp_path, None, None, *more), "is not an index and is not empty")
    assert [p.name for p in (tmp_path / "index").iterdir()] == ["thesis.txt"]
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").write_text("a file")
    refused(index(tmp_path), "is not a directory")
    assert (tmp_path / "index").read_text() == "a file"


def test_another_index_in_the_way(tmp_path):
    assert index(tmp_path).code == 0
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    refused(index(tmp_path, None, None, "--seed", "1"), "another index", "seed")
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    assert index(tmp_path, None, None, "--seed", "1", "--overwrite").code == 0
    refused(index(tmp_path, kit.checkpoint_path("llama")), "other weights")


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()]
    refused(cli("index", *arguments, "-o", tmp_path / "file" / "below"), "could not be written")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(cli("index", *arguments, "-o", tmp_path / "locked" / "index"), "Permission denied")
