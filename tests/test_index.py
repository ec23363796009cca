"""Indexing: what every row holds, against the oracle; cost, interruption, resumption, privacy."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from haiftrace import corpus as corpora
from haiftrace import index as indexing
from haiftrace.corpus import CorpusSettings
from haiftrace.engine import GradientEngine, Reduced, TokenGradients, inverse_norms
from haiftrace.errors import CorpusError, IndexStoreError, UsageError
from haiftrace.index import IndexSettings, build_index
from haiftrace.progress import Silent
from haiftrace.store import Index, IndexWriter
from tests import kit
from tests.kit import make_index
from tests.tiny_models import SENTENCES


class Notebook:
    """A progress that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, float | None]] = []
        self.work = 0.0

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, what: str, work: float | None) -> None:
        self.stages.append((what, work))
        self.work = 0.0

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        self.work += work


def build(output, corpus, progress=None, model=None, **settings):
    reading = {k: settings.pop(k) for k in ("loss_on", "skip_bad_lines") if k in settings}
    return build_index(
        model or kit.checkpoint(),
        CorpusSettings((str(corpus),), **reading),
        IndexSettings(output=output, **{**kit.SMALL, **settings}),
        progress or Silent(),
    )


def windows(path):
    with Index.open(path) as index:
        return list(index.iter_windows(vectors=True, token_vectors=True))


def same(one, two, tolerance=1e-12):
    """The same rows in the same order; float16 vectors may differ in their last bit."""
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name in ("record", "id", "path", "line", "start", "window", "windows", "text"):
            assert getattr(a, name) == getattr(b, name)
        assert (a.token_ids, a.offsets, a.labels) == (b.token_ids, b.offsets, b.labels)
        for name in ("loss", "grad_norm", "haif_norm", "token_grad_norm"):
            kit.close(getattr(a, name), getattr(b, name), tolerance)
        kit.close(a.token_loss, b.token_loss, 1e-6)
        kit.close(a.vector, b.vector, 2e-3)
        kit.close(a.token_vectors, b.token_vectors, 2e-3)


def test_every_row_holds_what_the_oracle_finds():
    oracle = kit.oracle()
    rows = windows(kit.index_path())
    assert len(rows) == len(SENTENCES)
    record_projector = kit.tracer().engine.projector(kit.SMALL["projection_dim"], 0)
    token_projector = kit.tracer().engine.projector(kit.SMALL["token_vectors"], 0)
    attention = kit.oracle(scope="attention")
    for number, (row, text) in enumerate(zip(rows, SENTENCES, strict=True)):
        gradients, losses = oracle.gradients[number], oracle.losses[number]
        units = gradients * inverse_norms(gradients.norm(dim=1)).unsqueeze(1)
        assert (row.record, row.id, row.line, row.text) == (number, f"r{number}", number + 1, text)
        assert row.token_ids == kit.checkpoint().tokenizer(text)["input_ids"]
        assert row.labels == [False, *[True] * (len(row.token_ids) - 1)]
        kit.close(row.loss, losses.mean())
        kit.close(row.grad_norm, gradients.mean(0).norm())
        kit.close(row.haif_norm, units.sum(0).norm())
        kit.close(row.token_loss[1:], losses, 1e-6)
        kit.close(row.token_grad_norm[1:], gradients.norm(dim=1))
        unit = units.sum(0) / units.sum(0).norm()
        kit.close(row.vector, oracle.project(unit[None], record_projector)[0], 1e-3)
        gradients = attention.gradients[number]
        (kept,) = row.scope_norms.values()
        kit.close(kept[1:], gradients.norm(dim=1))
        units = gradients * inverse_norms(gradients.norm(dim=1)).unsqueeze(1)
        kit.close(row.token_vectors[1:], attention.project(units, token_projector), 1e-3)
        assert not row.token_grad_norm[0]
        assert not row.token_vectors[0].any()


def test_windows_hold_each_label_once_and_their_own_text():
    rows = windows(kit.index_path(context=8))
    for number, text in enumerate(SENTENCES):
        ids = kit.checkpoint().tokenizer(text)["input_ids"]
        labelled = []
        for row in (row for row in rows if row.record == number):
            assert row.token_ids == ids[row.start : row.start + 8]
            assert [row.text[a:b] for a, b in row.offsets] == [
                kit.checkpoint().tokenizer.decode([i]) for i in row.token_ids
            ]
            labelled += [row.start + i for i, label in enumerate(row.labels) if label]
        assert labelled == list(range(1, len(ids)))


def test_batches_do_not_change_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "READ_AHEAD", 3)
    monkeypatch.setattr(indexing, "BATCH_TOKENS", {"cpu": 48})
    with kit.precisely():
        build(tmp_path / "index", kit.corpus_path(), context=8)
    same(windows(tmp_path / "index"), windows(kit.index_path(context=8)))


def test_no_token_vectors_when_none_are_wanted(tmp_path):
    build(tmp_path / "index", kit.corpus_path(), token_vectors=0)
    with Index.open(tmp_path / "index") as index, pytest.raises(IndexStoreError):
        next(iter(index.iter_windows(token_vectors=True)))


def test_losses_on_responses_alone(tmp_path):
    rows = [
        {"prompt": "Tobin's phone is", "response": " 555-0177."},
        {"prompt": "x", "response": ""},
    ]
    corpus = tmp_path / "pairs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = build(tmp_path / "index", corpus, loss_on="response")
    (row,) = windows(tmp_path / "index")
    labelled = [
        row.text[a:b] for (a, b), label in zip(row.offsets, row.labels, strict=True) if label
    ]
    assert "".join(labelled) == " 555-0177."
    assert (outcome.totals.records, outcome.left_out) == (1, 1)


def test_end_of_text_is_learnt_where_training_added_it(tmp_path):
    build(tmp_path / "index", kit.corpus_path(), append_eos=True)
    for row in windows(tmp_path / "index"):
        assert row.token_ids[-1] == kit.checkpoint().tokenizer.eos_token_id
        assert row.labels[-1]
        assert row.offsets[-1] == (0, 0)
        assert row.token_grad_norm[-1] > 0


def test_the_cost_is_said_first(tmp_path):
    notebook = Notebook()
    lines = [*SENTENCES, "", "M"]
    corpus = kit.write_corpus(tmp_path / "data.jsonl", lines)
    outcome = build(tmp_path / "index", corpus, notebook)
    labels = sum(len(losses) for losses in kit.oracle().losses[:-1])
    assert notebook.said[0].startswith(f"Indexing 12 records, {labels} label tokens; about ")
    assert notebook.said[1] == "Left out 1 empty records and 1 without a token to predict."
    assert [what for what, _ in notebook.stages] == ["reading the corpus", "indexing"]
    assert notebook.work == pytest.approx(notebook.stages[-1][1])
    assert (outcome.totals.records, outcome.left_out, outcome.bad_lines) == (12, 2, 0)
    assert outcome.totals.label_tokens == labels


def test_the_size_that_is_said_is_about_right(tmp_path):
    notebook = Notebook()
    pairs = [f"{a} {b}" for a, b in itertools.combinations(SENTENCES[:6], 2)]
    corpus = kit.write_corpus(tmp_path / "data.jsonl", pairs, ids=False)
    build(tmp_path / "index", corpus, notebook, projection_dim=1024, token_vectors=256)
    number, unit = notebook.said[0].split("about ")[1].split()[:2]
    said = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    really = sum(p.stat().st_size for p in (tmp_path / "index").rglob("*") if p.is_file())
    assert 0.6 < really / said < 1.5


def test_bad_lines_are_counted_and_named(tmp_path):
    notebook = Notebook()
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    with corpus.open("a") as lines:
        lines.write('{"text": "555-0199\n{"other": 1}\n')
    outcome = build(tmp_path / "index", corpus, notebook, skip_bad_lines=True)
    (said,) = [text for text in notebook.said if "Left out 2 lines" in text]
    assert ":13:" in said
    assert ":14:" in said
    assert "555" not in said
    assert outcome.bad_lines == 2
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["extra"]["bad"] == 2


def test_an_index_is_private(tmp_path):
    old = os.umask(0)
    try:
        make_index(tmp_path / "index", kit.corpus_path())
    finally:
        os.umask(old)
    paths = [tmp_path / "index", *(tmp_path / "index").rglob("*")]
    assert len(paths) > 5
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# What cannot be indexed leaves nothing behind


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"projection_dim": 0}, "0 dimensions"),
        ({"projection_dim": 3}, "3 dimensions"),
        ({"projection_dim": -256}, "-256 dimensions"),
        ({"token_vectors": 7}, "7 dimensions"),
        ({"context": 1}, "1 tokens"),
        ({"context": 65}, "65 tokens"),
        ({"parameters": "nothing_called_so"}, "nothing_called_so"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, what):
    with pytest.raises(UsageError) as caught:
        build(tmp_path / "index", kit.corpus_path(), **settings)
    assert what in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "index").exists()


def test_a_corpus_without_a_label_is_refused(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl", ["M", "T"], ids=False)
    with pytest.raises(CorpusError, match="No record of the corpus has a label: all 2"):
        build(tmp_path / "index", corpus)
    assert not (tmp_path / "index").exists()


def test_a_token_beyond_the_embedding_is_refused_by_its_place(tmp_path, monkeypatch):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    seen = max(kit.checkpoint().tokenizer(SENTENCES[1])["input_ids"])
    from dataclasses import replace

    model = replace(kit.checkpoint(), vocabulary=seen)
    with pytest.raises(CorpusError) as caught:
        build(tmp_path / "index", corpus, model=model)
    assert "data.jsonl:" in caught.value.message
    assert not any(secret in caught.value.message for secret in kit.SECRETS)
    assert not (tmp_path / "index").exists()


def test_a_bad_line_far_down_is_found_before_anything_is_written(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    with corpus.open("a") as lines:
        lines.write("{oops\n")
    with pytest.raises(CorpusError, match=":13:"):
        build(tmp_path / "index", corpus)
    assert not (tmp_path / "index").exists()


# Again, and with other settings


def test_the_same_again_is_complete_already(tmp_path, monkeypatch):
    first = make_index(tmp_path / "index", kit.corpus_path())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "index").rglob("*.parquet")}

    def made(*_, **__):
        raise AssertionError("an engine for nothing")

    monkeypatch.setattr("haiftrace.engine.GradientEngine", made)
    again = make_index(tmp_path / "index", kit.corpus_path())
    assert not first.already_complete
    assert again.already_complete
    assert again.totals == first.totals
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_other_settings_need_overwrite(tmp_path):
    make_index(tmp_path / "index", kit.corpus_path())
    with pytest.raises(IndexStoreError, match="another index: seed 0 there and 1 now") as caught:
        make_index(tmp_path / "index", kit.corpus_path(), seed=1)
    assert "--overwrite" in caught.value.hint
    before = windows(tmp_path / "index")
    make_index(tmp_path / "index", kit.corpus_path(), seed=1, overwrite=True)
    after = windows(tmp_path / "index")
    assert after[0].vector.tolist() != before[0].vector.tolist()
    kit.close(after[0].haif_norm, before[0].haif_norm)


def test_another_corpus_or_checkpoint_needs_overwrite(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    make_index(tmp_path / "index", corpus)
    with corpus.open("a") as lines:
        lines.write('{"text": "One more."}\n')
    with pytest.raises(IndexStoreError, match="other corpus"):
        make_index(tmp_path / "index", corpus)
    with pytest.raises(IndexStoreError, match="other corpus; other weights"):
        make_index(tmp_path / "index", corpus, kit.checkpoint("llama"))


def test_two_processes_do_not_write_one_index(tmp_path):
    settings = {"projection_dim": 8, "vector_dtype": "float16", "token_vectors": 0}
    with (
        IndexWriter.create_or_resume(tmp_path / "index", settings, {}),
        pytest.raises(IndexStoreError, match=r"Another haiftrace process|another index"),
    ):
        make_index(tmp_path / "index", kit.corpus_path())
    with multiprocessing.get_context("fork").Pool(1) as pool:  # a real second process
        writing = pool.apply_async(_held_by_another, (tmp_path / "shared",))
        deadline = time.monotonic() + 20
        while not (tmp_path / "shared" / "busy").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "shared" / "busy").unlink()
        with pytest.raises(IndexStoreError, match="Another haiftrace process"):
            make_index(tmp_path / "shared", kit.corpus_path())
        (tmp_path / "done").touch()
        writing.get(20)


def _held_by_another(path):
    from haiftrace.store.durable import DirectoryLock

    path.mkdir()
    lock = DirectoryLock(path)
    (path / "busy").touch()
    deadline = time.monotonic() + 20
    while not (path.parent / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    lock.release()


# Interruption


def interrupted(make, batches, error=KeyboardInterrupt, seconds_between_shards=0.0):
    """Let the engine raise at the batch after the given number; a record is a batch."""
    compute = GradientEngine.scoped_token_gradients
    done = []

    def counted(self, *arguments):
        if len(done) == batches:
            raise error
        done.append(1)
        return compute(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "READ_AHEAD", 2)
        patch.setattr(indexing, "BATCH_TOKENS", {"cpu": 1})
        patch.setattr(indexing, "SECONDS_BETWEEN_SHARDS", seconds_between_shards)
        patch.setattr(GradientEngine, "scoped_token_gradients", counted)
        with pytest.raises(error):
            make()


@pytest.mark.parametrize(
    ("batches", "error", "seconds_between_shards"),
    [
        (0, KeyboardInterrupt, 0.0),
        (5, KeyboardInterrupt, 0.0),
        (5, KeyboardInterrupt, 1e9),
        (9, RuntimeError, 0.0),
        (9, RuntimeError, 1e9),
    ],
)
def test_an_interrupted_index_goes_on_to_the_same_end(
    tmp_path, batches, error, seconds_between_shards
):
    def make(progress=None):
        with kit.precisely():
            return build(tmp_path / "index", kit.corpus_path(), progress)

    interrupted(make, batches, error, seconds_between_shards)
    with pytest.raises(IndexStoreError, match="unfinished"):
        Index.open(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    kept = manifest["totals"]["records"]
    assert kept == batches // 2 * 2  # what was read ahead together is kept together
    notebook = Notebook()
    assert make(notebook).totals.records == len(SENTENCES)
    assert any(f"Going on after {kept} records" in s for s in notebook.said) == bool(kept)
    assert notebook.work == pytest.approx(notebook.stages[-1][1])
    same(windows(tmp_path / "index"), windows(kit.index_path()))


def test_records_without_a_label_do_not_upset_where_it_goes_on(tmp_path):
    texts = ["M", *SENTENCES[:3], "T", "", "R", *SENTENCES[3:], "P", "Q"]
    corpus = kit.write_corpus(tmp_path / "data.jsonl", texts)
    make_index(tmp_path / "whole", corpus)
    interrupted(lambda: make_index(tmp_path / "index", corpus), 6)
    make_index(tmp_path / "index", corpus)
    same(windows(tmp_path / "index"), windows(tmp_path / "whole"), 1e-6)


def test_with_another_seed_nothing_is_continued(tmp_path):
    interrupted(lambda: make_index(tmp_path / "index", kit.corpus_path()), 6)
    with pytest.raises(IndexStoreError, match="seed"):
        make_index(tmp_path / "index", kit.corpus_path(), seed=5)


def _killed(output):
    torch.set_num_threads(1)
    compute = GradientEngine.scoped_token_gradients

    def slow(self, *arguments):
        time.sleep(0.05)
        return compute(self, *arguments)

    GradientEngine.scoped_token_gradients = slow
    indexing.READ_AHEAD, indexing.SECONDS_BETWEEN_SHARDS = 1, 0.0
    make_index(output, kit.corpus_path())


def shards(path):
    try:
        return len(json.loads((path / "manifest.json").read_text())["shards"])
    except FileNotFoundError:
        return 0


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("at", [1, 6])
def test_a_killed_index_goes_on_to_the_same_end(tmp_path, at):
    right = windows(kit.index_path())
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(tmp_path / "index",)
    )
    process.start()
    until(lambda: shards(tmp_path / "index") >= at)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert at <= shards(tmp_path / "index") < len(SENTENCES)
    make_index(tmp_path / "index", kit.corpus_path())
    same(windows(tmp_path / "index"), right, 1e-6)


def test_ctrl_c_ends_a_real_command_with_130_and_a_partial_index(tmp_path):
    arguments = [
        *("index", "--model", str(kit.checkpoint_path()), "--corpus", str(kit.corpus_path())),
        *("-o", str(tmp_path / "index"), *kit.SMALL_OPTIONS, "--dtype", "float64"),
    ]
    program = (
        "import signal, sys, time, haiftrace.cli, haiftrace.index as index\n"
        "from haiftrace.engine import GradientEngine as Engine\n"
        # A job in the background, as CI may be, hands on an interrupt that is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "compute = Engine.scoped_token_gradients\n"
        "Engine.scoped_token_gradients = lambda *a: (time.sleep(0.5), compute(*a))[1]\n"
        "index.READ_AHEAD, index.SECONDS_BETWEEN_SHARDS = 2, 0.0\n"
        f"sys.argv = ['haiftrace', *{arguments!r}]\n"
        "haiftrace.cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: shards(tmp_path / "index") >= 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("\nThe same command goes on from the last complete shard.\nInterrupted.\n")
    assert 2 <= shards(tmp_path / "index") < 6
    outcome = kit.cli(*arguments, cwd=Path.cwd())
    assert outcome.code == 0
    assert "Going on after" in outcome.err
    same(windows(tmp_path / "index"), windows(kit.index_path()), 1e-6)


# Memory


class Idle:
    """An engine that computes nothing, so that thousands of records take no time."""

    notes = ()
    device = torch.device("cpu")
    parameters: ClassVar = {}

    def __init__(self, *_: object) -> None:
        pass

    def projector(self, dimension: int, seed: int) -> int:
        return dimension

    def scoped_token_gradients(self, batch, scopes) -> list[TokenGradients]:
        ones = batch.labels_BT.double()
        return [TokenGradients(ones, ones) for _ in scopes]

    def record_gradients(self, batch, weights_NBT, dimension=None) -> Reduced:
        norms = torch.ones(2, batch.size, dtype=torch.float64)
        return Reduced(norms, torch.zeros(2, batch.size, dimension), None)


def test_a_large_corpus_is_never_held(tmp_path, monkeypatch):
    count = 1200
    corpus = kit.write_corpus(tmp_path / "data.jsonl", (SENTENCES[i % 12] for i in range(count)))
    read = corpora.read_records
    taken: list[int] = []
    most = []

    def counted(*arguments):
        taken.clear()
        for record in read(*arguments):
            taken.append(1)
            yield record

    append = IndexWriter.append_record

    def noted(self, rows, cursor):
        most.append(len(taken) - cursor)
        append(self, rows, cursor)

    monkeypatch.setattr(corpora, "read_records", counted)
    monkeypatch.setattr(IndexWriter, "append_record", noted)
    monkeypatch.setattr("haiftrace.engine.GradientEngine", Idle)
    outcome = make_index(tmp_path / "index", corpus, projection_dim=16, token_vectors=0)
    assert outcome.totals.records == count == len(most)
    assert max(most) < indexing.READ_AHEAD
    with Index.open(tmp_path / "index") as index:
        assert len(index.manifest.shards) == 3
        assert [w.id for w in index.iter_windows([0, 800, 1199])] == ["r0", "r800", "r1199"]
        assert np.all(np.diff(index.column("record")) == 1)
