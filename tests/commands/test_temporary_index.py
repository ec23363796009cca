"""`trace --model --corpus`: what an index made for one run gives, and what it leaves behind."""

from __future__ import annotations

import gc
import json
import tempfile
import weakref
from pathlib import Path

import pytest

from haiftrace.calibration import calibrate as calibrating
from haiftrace.checkpoint import load as checkpoints
from haiftrace.index import build as indexing
from haiftrace.scoring.layerwise.family import LayerwiseFamily
from haiftrace.scoring.session import ScoringSession
from haiftrace.tracing.tracer import Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT, cli, refused


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The directory that temporary ones are made in; nothing may stay there."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def made(*options: object, prompt: str | None = PROMPT, **settings):
    where = ("--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    asked = ("trace",) if prompt is None else ("trace", prompt, "--response", ANSWER)
    return cli(*asked, *where, *options, **settings)


def without_paths(report: dict) -> dict:
    """What does not tell where the index was, or how long it took."""
    index = {key: value for key, value in report["index"].items() if key != "path"}
    kept = {key: value for key, value in report.items() if key not in ("command", "seconds")}
    return {**kept, "index": index}


@pytest.mark.parametrize("method", ["layerwise", "layerwise,haif,bm25"])
def test_it_reports_what_a_kept_index_reports(tmp_path, temporary, method):
    kept = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()),
        *("-o", tmp_path / "index", "--methods", method),
    )
    assert kept.code == 0, kept.err
    probes = tmp_path / "p.jsonl"
    probes.write_text(
        json.dumps({"prompt": PROMPT, "id": "mara"})
        + "\n"
        + json.dumps({"prompt": "Hello", "response": " nothing"})
        + "\n"
    )
    asked = ("--prompts", probes, "--method", method, "--max-new-tokens", "8", "--alpha", "0.1")
    right = cli("trace", *asked, "--index", tmp_path / "index", "-o", "-", "-q")
    ours = made(*asked, "-o", "-", prompt=None)
    assert (ours.code, right.code) == (1, 1), ours.err
    assert without_paths(ours.report) == without_paths(right.report)
    decided = {
        finding["verdict"] and finding["verdict"]["decision"] for finding in ours.report["findings"]
    }
    assert "traced" in decided
    assert "inconclusive" not in decided
    assert ours.report["index"]["path"].startswith(str(temporary / "haiftrace-"))
    assert not list(temporary.iterdir())
    said = ours.err.splitlines()
    assert said[0].startswith("The index of this run is temporary; ")
    assert any(line.startswith("Calibrated layerwise by ") for line in said)
    # Nobody could add to it what a command would keep there.
    assert "--methods" not in ours.err


def test_fields_of_the_corpus_are_named_as_for_an_index(tmp_path, temporary):
    lines = [{"body": text, "id": f"k{n}", "who": "x"} for n, text in enumerate(kit.SENTENCES)]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ("trace", PROMPT, "--response", ANSWER, "--model", kit.checkpoint_path())
    refused(cli(*asked, "--corpus", corpus), "'text'")
    named = ("--corpus", corpus, "--text-field", "body", "--group-field", "who")
    outcome = cli(*asked, *named, "-q", "-o", "-")
    assert (outcome.code, outcome.err) == (0, "")
    (finding,) = outcome.report["findings"]
    assert finding["records"][0]["id"] == "k1"
    # All records are on one subject: no control has another record to be compared with.
    assert "0 controls cannot resolve" in finding["verdict"]["reasons"][0]
    refused(
        cli(*asked, "--corpus", corpus, "--text-field", "body", "--group-field", "whom"), "whom"
    )
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--index", "x"), "--index and --corpus exclude each other"),
        (("--text-field", "body"), "--text-field goes with --corpus"),
        (("--group-field", "who"), "--group-field goes with --corpus"),
    ],
)
def test_options_that_would_do_nothing_are_refused(temporary, options, said):
    if "--index" in options:
        refused(made(*options), said)
    else:
        refused(cli("trace", PROMPT, *options), said)
    assert not list(temporary.iterdir())


def test_a_corpus_without_its_model_is_refused(temporary, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_checkpoint", None)
    outcome = cli("trace", PROMPT, "--corpus", kit.corpus_path())
    refused(outcome, "--corpus goes with --model")
    refused(made("--corpus", "none.jsonl"), "none.jsonl")
    assert not list(temporary.iterdir())


def interrupted(*_, **__):
    raise KeyboardInterrupt


def failing(*_, **__):
    raise OSError(28, "No space left on device", "spool")


PLACES = [
    (indexing, "fill"),
    (calibrating, "sample_controls"),
    (LayerwiseFamily, "trace"),
    (Tracer, "__init__"),
]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda value: str(value))
@pytest.mark.parametrize(("failure", "code"), [(interrupted, 130), (failing, 2)])
def test_nothing_is_left_however_it_ends(temporary, monkeypatch, owner, name, failure, code):
    seen = []

    def fails(*arguments, **named):
        seen.extend(temporary.iterdir())
        failure()

    monkeypatch.setattr(owner, name, fails)
    outcome = made("-q")
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    assert len(seen) == 1
    assert seen[0].name.startswith("haiftrace-")
    assert not list(temporary.iterdir())


def test_an_interrupted_audit_reports_what_it_knows_and_leaves_nothing(
    tmp_path, temporary, monkeypatch
):
    monkeypatch.setattr(ScoringSession, "trace", interrupted)
    probes = tmp_path / "p.jsonl"
    probes.write_text(json.dumps({"prompt": PROMPT}) + "\n")
    outcome = made("--prompts", probes, "-q", "-o", "-", prompt=None)
    assert outcome.code == 130, outcome.err
    assert outcome.report["gate"]["partial"]
    assert not list(temporary.iterdir())


def test_it_is_private_while_it_lasts(temporary, monkeypatch):
    modes = []
    trace = LayerwiseFamily.trace

    def noted(scorer, *arguments):
        modes.extend(path.stat().st_mode & 0o777 for path in temporary.iterdir())
        return trace(scorer, *arguments)

    monkeypatch.setattr(LayerwiseFamily, "trace", noted)
    assert made("-q", "-o", "-").code == 0
    assert modes == [0o700]


def test_one_model_is_held_at_a_time(monkeypatch):
    load, loaded, alive = checkpoints.load_checkpoint, [], []

    def counted(*arguments, **named):
        gc.collect()
        alive.append(sum(reference() is not None for reference in loaded))
        found = load(*arguments, **named)
        loaded.append(weakref.ref(found.model))
        return found

    monkeypatch.setattr(checkpoints, "load_checkpoint", counted)
    assert made("-q", "-o", "-").code == 0
    assert alive == [0, 0]


def test_what_cannot_be_computed_is_refused_before_anything_is_indexed(temporary, monkeypatch):
    monkeypatch.setattr(indexing, "build_index", None)
    refused(made("--adjust", "power:2"), "--adjust does nothing for layerwise")
    for method in ("attif", "tracincp,layerwise"):
        refused(made("--method", method), "checkpoints of the training run are needed")
    assert not list(temporary.iterdir())


def test_a_quantile_of_the_corpus_norms_is_had_without_a_further_command():
    outcome = made("--method", "haif", "--adjust", "soft:0.3", "-q", "-o", "-")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.report["settings"]["adjust"] == "soft:0.3"
