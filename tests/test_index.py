"""Indexing: what every row holds, against the oracle; cost, privacy, memory."""

from __future__ import annotations

import itertools
import json
import os
import stat
from typing import ClassVar

import numpy as np
import pytest
import torch

from haiftrace import corpus as corpora
from haiftrace import index as indexing
from haiftrace.engine import Reduced, TokenGradients, inverse_norms
from haiftrace.errors import IndexStoreError
from haiftrace.store import Index, IndexWriter
from tests import kit
from tests.index_kit import Notebook, build, same, windows
from tests.kit import make_index
from tests.tiny_models import SENTENCES


def test_every_row_holds_what_the_oracle_finds():
    oracle = kit.oracle()
    rows = windows(kit.index_path())
    assert len(rows) == len(SENTENCES)
    record_projector = kit.tracer().engine.projector(kit.SMALL["projection_dim"], 0)
    token_projector = kit.tracer().engine.projector(kit.SMALL["token_vectors"], 0)
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
        kit.close(row.token_vectors[1:], oracle.project(units, token_projector), kit.HALF_A_STEP)
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

    def token_gradients(self, batch, projector=None) -> TokenGradients:
        ones = batch.labels_BT.double()
        return TokenGradients(ones, ones)

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
