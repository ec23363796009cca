"""What a user can get wrong: one paragraph, a hint, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from haiftrace import cli as command_line
from tests import kit
from tests.kit import ANSWER, PROMPT, SMALL_OPTIONS, cli, misused, refused
from tests.tiny_models import SENTENCES

PRIVATE = "555-0199"


def index(tmp_path, model=None, corpus=None, *options):
    """`haiftrace index` into tmp_path / "index"."""
    arguments = ["index", "--model", model or kit.checkpoint_path()]
    arguments += ["--corpus", corpus or kit.corpus_path(), "-o", tmp_path / "index"]
    return cli(*arguments, *SMALL_OPTIONS, *options, cwd=tmp_path)


def trace(*options, prompt=PROMPT, **settings):
    return cli("trace", prompt, "--index", kit.index_path(), *options, **settings)


def nothing_left(tmp_path):
    assert not (tmp_path / "index").exists()
    assert not list(tmp_path.glob("**/*.tmp"))


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


def with_weight(value):
    def spoil(path):
        weights = load_file(path / "model.safetensors")
        next(t for t in weights.values() if t.ndim == 2)[0, 0] = value
        save_file(weights, path / "model.safetensors", {"format": "pt"})

    return spoil


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
    monkeypatch.setattr("haiftrace.checkpoint.load_checkpoint", None)
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
        (["--projection-dim", "5"], "5 dimensions"),
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
    monkeypatch.setattr("haiftrace.trace.open_tracer", None)
    refused(trace("-o", "report.foo"), "'.foo'")
    refused(trace("-o", tmp_path), "suffix")
    (tmp_path / "sub.json").mkdir()
    refused(trace("-o", tmp_path / "sub.json"), "is a directory")


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


def test_no_arguments_show_the_help_and_are_no_success():
    outcome = cli()
    assert outcome.code == 2
    assert "Usage: haiftrace" in outcome.out + outcome.err
    assert cli("--debug").code == 2


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
    refused(cli("trace", PROMPT, "--index", own / "index"), "is damaged")
    refused(cli("trace", PROMPT, "--index", own / "model"), "is not an index")
    (own / "index" / "manifest.json").write_text("{")
    refused(cli("trace", PROMPT, "--index", own / "index"), "not valid JSON")


# Failures of haiftrace itself


class Fault(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (Fault(PRIVATE), "failed: Fault"),
        (MemoryError(PRIVATE), "not enough memory"),
        (torch.OutOfMemoryError(PRIVATE), "not enough memory"),
        (OSError(28, "No space left on device", "spool"), "(spool): No space left on device"),
        (AssertionError(PRIVATE), "failed: AssertionError"),
        (RecursionError(PRIVATE), "failed: RecursionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_internal_error_is_exit_code_2_and_no_traceback(monkeypatch, error, what, debug):
    def failing(*_):
        raise error

    monkeypatch.setattr("haiftrace.trace.open_tracer", failing)
    outcome = trace(*debug)
    assert outcome.code == 2
    assert what in outcome.err
    assert outcome.err.count("Error: ") == 1 + (bool(debug) and f"Error: {error}" in outcome.err)
    assert outcome.err.count("Hint: ") == 1
    assert ("Traceback" in outcome.err) == bool(debug)
    assert debug or PRIVATE not in outcome.err


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_debug_shows_where_anywhere_on_the_line(place):
    words = ["trace", PROMPT, "--method", "none"]
    words.insert({"before": 0, "between": 1, "after": 4}[place], "--debug")
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.rstrip().splitlines()[-2].startswith("Error: There is no method")


def test_debug_after_two_hyphens_is_a_prompt():
    outcome = cli("trace", "--method", "none", "--", "--debug")
    refused(outcome, "no method 'none'")


def test_interruption_is_exit_code_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("haiftrace.trace.open_tracer", interrupted)
    outcome = trace()
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "Interrupted.\n")


def test_a_code_for_every_way_out():
    def fails(error):
        return command_line._failed(error)

    assert fails(BrokenPipeError()) == 2
    assert command_line._without_debug(["a", "--debug", "--", "--debug"]) == (
        ["a", "--", "--debug"],
        True,
    )


def test_a_few_of_them_in_a_real_process(tmp_path):
    command = [sys.executable, "-c", "from haiftrace.cli import main; main()"]
    for arguments, what in (
        (["trace", "x", "-o", "x.foo"], "'.foo'"),
        (["trace", "x", "--method", "none"], "no method"),
        (["index", "--model", "x", "--corpus", "none.jsonl"], "none.jsonl"),
        (["trace", "x"], "no index at haiftrace-index"),
        (["trace", "x", "--top", "0"], "--top"),
        ([], "Usage"),
    ):
        ran = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 2
        assert what in ran.stderr
        assert "Traceback" not in ran.stderr
        assert ran.stdout == ""
    assert not list(Path(tmp_path).iterdir())
