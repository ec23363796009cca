"""What `trace` is given wrong: one paragraph, a hint, the right exit code, no report."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import kit
from tests.commands.cli_kit import PRIVATE, index, trace, with_weight
from tests.kit import ANSWER, PROMPT, cli, misused, refused

# Traces


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--response", ""], "response is empty"),
        (["--response", " \n\t"], "response is empty"),
        (["--response", ANSWER, "--span", "0199"], "--span is not in the response"),
        (["--response", ANSWER, "--span", ""], "--span is not in the response"),
        (["--response", "word " * 100], "the model's context has 64"),
        (["--response", "\udcff"], "not valid UTF-8"),
        (["--template", "Question: Answer:"], "no {prompt}"),
        (["--chat"], "no chat template"),
        (["--stop", " 555"], "answered with nothing"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "gpu"], "No such device"),
        (["--model", "none-such"], "none-such"),
        (["--index", "none-such"], "no index at none-such"),
        (["-o", "report.foo"], "'.foo'"),
        (["-o", "report"], "without a suffix"),
        (["-o", "none/such/report.json"], "no directory that exists"),
        (["-o", "a.json", "-o", "./a.json"], "same place"),
    ],
)
def test_a_trace_that_cannot_be_made(tmp_path, options, what):
    outcome = trace(*options, "-o", "never.json", cwd=tmp_path)
    refused(outcome, what)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prompt", ["", "Mara Ellison " * 40, "\udcff\udcfe"])
def test_a_prompt_that_cannot_be_asked(prompt):
    refused(trace(prompt=prompt))


def test_a_response_on_stdin_that_cannot_be_read(tmp_path):
    refused(trace("--response", "-", stdin=b"555\xff"), "not valid UTF-8")
    refused(trace("--response", "-", stdin=b""), "response is empty")
    refused(trace("--response", "-", stdin=b"\n"), "response is empty")


def test_outputs_are_checked_before_the_work_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("haiftrace.tracing.tracer.open_tracer", None)
    refused(trace("-o", "report.foo"), "'.foo'")
    refused(trace("-o", tmp_path), "suffix")
    (tmp_path / "sub.json").mkdir()
    refused(trace("-o", tmp_path / "sub.json"), "is a directory")
    audit = ("trace", "--prompts", tmp_path / "none.jsonl", "-o", tmp_path / "f.svg")
    refused(cli(*audit), "A figure is of a trace")


@pytest.mark.parametrize(
    "options",
    [
        ["--top", "0"],
        ["--top", "-1"],
        ["--top", "all"],
        ["--candidates", "0"],
        ["--max-new-tokens", "0"],
        ["--loss-on", "prompt"],
        ["--tpo", "3"],
        ["--top"],
        ["surplus"],
    ],
)
def test_misuse_of_trace(options):
    misused(trace(*options))


def test_trace_without_a_prompt():
    misused(cli("trace"), "prompt")


# Stale indexes


@pytest.fixture
def own(tmp_path):
    """An index, checkpoint and corpus that a test may change."""
    shutil.copy(kit.corpus_path(), tmp_path / "data.jsonl")
    kit.copied_checkpoint(tmp_path / "model")
    assert index(tmp_path, tmp_path / "model", tmp_path / "data.jsonl").code == 0
    return tmp_path


def stale(own, what, *options):
    arguments = ("trace", PROMPT, "--index", own / "index", "-o", own / "r.json", *options)
    refused(cli(*arguments), f"made from another {what}", code=3)
    assert not (own / "r.json").exists()


def test_another_checkpoint_tokenizer_or_corpus_is_inconclusive(own):
    weights = (own / "model" / "model.safetensors").read_bytes()
    with_weight(0.5)(own / "model")
    stale(own, "checkpoint")
    (own / "model" / "model.safetensors").write_bytes(weights)
    stale(own, "checkpoint", "--model", kit.checkpoint_path("llama"))
    tokenizer = (own / "model" / "tokenizer.json").read_text()
    content = json.loads(tokenizer)
    content["model"]["merges"].pop()
    (own / "model" / "tokenizer.json").write_text(json.dumps(content))
    stale(own, "tokenizer")
    (own / "model" / "tokenizer.json").write_text(tokenizer)
    with (own / "data.jsonl").open("a") as lines:
        lines.write(json.dumps({"text": PRIVATE}) + "\n")
    stale(own, "corpus")


def test_a_moved_checkpoint_and_a_missing_corpus_are_no_obstacle(own):
    arguments = ("trace", PROMPT, "--index", own / "index", "-q", "-o", "-")
    (own / "model").rename(own / "moved")
    refused(cli(*arguments), "no directory")
    (own / "data.jsonl").unlink()
    outcome = cli(*arguments, "--model", own / "moved")
    assert outcome.code == 0, outcome.err
    assert any("not where it was" in note for note in outcome.report["findings"][0]["notes"])
    assert "not where it was" in " ".join(
        cli(*arguments[:-3], "--model", own / "moved").out.split()
    )


def test_an_index_that_is_damaged_or_of_something_else(own):
    shard = own / "index" / "records" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    refused(cli("trace", PROMPT, "--index", own / "index"), "is damaged", code=3)
    refused(cli("trace", PROMPT, "--index", own / "model"), "is not an index")
    (own / "index" / "manifest.json").write_text("{")
    refused(cli("trace", PROMPT, "--index", own / "index"), "not valid JSON", code=3)
