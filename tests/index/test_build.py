"""Indexing: what every row holds, against the oracle; cost, privacy, memory."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from haiftrace import corpus as corpora
from haiftrace import demo
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.engine import (
    DirectGradients,
    SecondMoments,
    TokenMeasures,
    Whitening,
    make_batch,
)
from haiftrace.errors import IndexStoreError, UsageError
from haiftrace.index import build as indexing
from haiftrace.index import fill as filling
from haiftrace.index import plan, shard_maker
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.index.census import Reservoir
from haiftrace.progress import Silent
from haiftrace.scoring import indexed_gradients as index_gradients
from haiftrace.scoring.indexed_gradients import whitening_tokens
from haiftrace.store import Index, ShardBuffer
from tests import kit
from tests.index.index_kit import Notebook, build, files, same, vectors, windows
from tests.kit import make_index
from tests.tiny_models import SENTENCES


def same_signs(ours, right) -> bool:
    """But of numbers that rounding may take over zero."""
    clear = np.abs(right) > 1e-6 * np.abs(right).max()
    return bool((np.sign(ours)[clear] == np.sign(right)[clear]).all())


def kept_whitening(path):
    """The matrices [D, D] of an index, layer by layer."""
    with Index.open(path) as index:
        ((tensors, _),) = index.supplement_tensors("whitening")
    return [tensors[str(layer)] for layer in range(len(tensors))]


def test_every_row_holds_what_single_records_give():
    oracle, model = kit.oracle(), kit.checkpoint()
    rows = windows(kit.index_path())
    assert len(rows) == len(SENTENCES)
    whitening = Whitening(tuple(kept_whitening(kit.index_path())))
    with kit.precisely():
        gradients = DirectGradients(model.model, whitening)
    found = []
    for number, (row, text) in enumerate(zip(rows, SENTENCES, strict=True)):
        assert (row.record, row.id, row.line, row.text) == (number, f"r{number}", number + 1, text)
        assert row.token_ids == model.tokenizer(text)["input_ids"]
        assert row.labels == [False, *[True] * (len(row.token_ids) - 1)]
        losses = oracle.losses[number]
        kit.close(row.loss, losses.mean())
        kit.close(row.token_loss[1:], losses, 1e-6)
        with kit.precisely():
            alone = gradients.measures(make_batch([row.token_ids]), kit.SMALL["token_vectors"], 0)
        kit.close(row.token_grad_norm[1:], alone.norms_BT[0, 1:], 1e-6)
        assert not row.token_grad_norm[0]
        found.append(alone.vectors_BTK[0, 1:].numpy())
    assert same_signs(vectors(kit.index_path()), np.concatenate(found))


def test_whitening_is_of_the_whole_corpus_where_that_is_small():
    model = kit.checkpoint()
    with kit.precisely():
        gradients = DirectGradients(model.model)
        moments = SecondMoments()
        for text in SENTENCES:
            moments.add(*gradients.value_inputs(make_batch([model.tokenizer(text)["input_ids"]])))
    right = moments.whitening(0.1).matrices
    found = kept_whitening(kit.index_path())
    assert len(found) == len(right) == gradients.layers
    for ours, theirs in zip(found, right, strict=True):
        kit.close(ours, theirs, 1e-6)
    damped = kept_whitening(kit.index_path(whitening_damping=1.0))
    kit.close(damped[0], moments.whitening(1.0).matrices[0], 1e-6)


def test_whitening_is_of_a_seeded_sample_of_a_larger_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "WHITENING_WINDOWS", 5)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(tmp_path / name, kit.corpus_path(), seed=seed)
    one, again, other = (kept_whitening(tmp_path / name)[0] for name in "abc")
    assert one.dtype == torch.float32
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    with Index.open(tmp_path / "a") as index:
        assert index.supplement("whitening").settings["windows"] == 5


def test_a_few_tokens_a_dimension_are_enough_for_whitening(tmp_path, monkeypatch):
    assert whitening_tokens(64) == whitening_tokens(512) == 4096
    assert whitening_tokens(4096) == 8 * 4096
    build(tmp_path / "all", kit.corpus_path())
    monkeypatch.setattr(filling, "whitening_tokens", lambda width: width)
    build(tmp_path / "few", kit.corpus_path())
    with Index.open(tmp_path / "all") as whole, Index.open(tmp_path / "few") as few:
        width = len(kept_whitening(tmp_path / "all")[0])
        assert few.supplement("whitening").settings["tokens"] <= width
        assert whole.supplement("whitening").settings["tokens"] > width


def test_reservoirs_are_uniform_and_bounded():
    counts = np.zeros(40)
    for seed in range(500):
        reservoir = Reservoir(10, seed)
        for number in range(40):
            reservoir.offer([number, 0])
        sample = reservoir.sample(1000)
        assert len(sample) == len({window[0] for window in sample}) == 10
        counts[[window[0] for window in sample]] += 1
        assert len(reservoir.sample(9)) == 4
        assert len(reservoir.sample(1)) == 1
    assert np.abs(counts - 125).max() < 5 * np.sqrt(125 * 0.75)


# Models without direct gradients


def test_full_gradients_take_their_place_and_that_is_said(tmp_path):
    notebook, model = Notebook(), kit.checkpoint("bloom")
    with kit.precisely():
        build(tmp_path / "index", kit.corpus_path(), notebook, model)
    (note,) = [line for line in notebook.said if "no direct gradients" in line]
    assert "full token gradients over the scope linear take their place" in note
    assert "a backward pass a token" in note
    oracle = kit.oracle("bloom")
    for number, row in enumerate(windows(tmp_path / "index")):
        gradients = oracle.gradients[number]
        kit.close(row.token_grad_norm[1:], gradients.norm(dim=1), 1e-6)
        kit.close(row.token_loss[1:], oracle.losses[number], 1e-6)
    with Index.open(tmp_path / "index") as index:
        assert index.settings["gradients"] == "full"
        assert index.settings["whitening_damping"] is None
        assert index.supplement("whitening") is None
        assert index.token_search is not None
    assert notebook.work == pytest.approx(notebook.stages[-1][1])


def test_a_scope_that_works_is_chosen_where_none_is_asked_for(monkeypatch):
    model, real = kit.checkpoint("bloom"), index_gradients.select_parameters

    def without_linear(of, scope):
        if scope == "linear":
            raise UsageError("its blocks are not known", "Use another.")
        return real(of, scope)

    monkeypatch.setattr(index_gradients, "select_parameters", without_linear)
    chosen = index_gradients.choose_gradients(model, None, 512 << 20)
    assert (chosen.kind, chosen.scope) == ("full", "matrices")
    assert "over the scope matrices take their place" in chosen.note
    with pytest.raises(UsageError, match="not known"):
        index_gradients.choose_gradients(model, "linear", 512 << 20)


# Windows


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
    monkeypatch.setattr(plan, "READ_AHEAD", 3)
    monkeypatch.setattr(shard_maker, "BATCH_TOKENS", {"cpu": 48})
    model = kit.checkpoint()
    with kit.precisely():
        build(tmp_path / "index", kit.corpus_path(), model=model, context=8)
    same(windows(tmp_path / "index"), windows(kit.index_path(context=8)))
    assert same_signs(vectors(tmp_path / "index"), vectors(kit.index_path(context=8)))


def test_no_token_vectors_when_none_are_wanted(tmp_path):
    build(tmp_path / "index", kit.corpus_path(), token_vectors=0)
    with Index.open(tmp_path / "index") as index:
        assert index.token_search is None
    same(windows(tmp_path / "index"), windows(kit.index_path()))


def test_vectors_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    compute = DirectGradients.measures

    def broken(self, batch, dimension, seed):
        found = compute(self, batch, dimension, seed)
        found.vectors_BTK[0, 1, 0] = torch.inf
        return found

    monkeypatch.setattr(DirectGradients, "measures", broken)
    with pytest.raises(IndexStoreError, match=r"data\.jsonl:\d+ is not a finite number"):
        build(tmp_path / "index", kit.corpus_path())


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
    build(tmp_path / "index", corpus, notebook, token_vectors=256)
    number, unit = notebook.said[0].split("about ")[1].split()[:2]
    said = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    kept = {name: data for name, data in files(tmp_path / "index").items() if "white" not in name}
    assert 0.6 < sum(map(len, kept.values())) / said < 1.5


def test_an_index_takes_few_bytes_a_token(tmp_path):
    """The demo's corpus under its checkpoint, with the settings of the command."""
    assets = Path(demo.__file__).parent / "assets"
    outcome = build_index(
        load_checkpoint(assets / "checkpoint", device="cpu"),
        CorpusSettings((str(assets / "corpus.jsonl"),)),
        IndexSettings(tmp_path / "index"),
        Silent(),
    )
    kept = {name: data for name, data in files(tmp_path / "index").items() if "white" not in name}
    assert set(kept) == {"records/00000.parquet", "tokens.faiss"}
    tokens = outcome.totals.label_tokens
    assert len(kept["tokens.faiss"]) / tokens < 260
    assert len(kept["records/00000.parquet"]) / tokens < 16
    whole = sum(map(len, kept.values())) + (tmp_path / "index/manifest.json").stat().st_size
    assert whole / tokens < 280


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


def no_measures(self, batch, dimension, seed) -> TokenMeasures:
    """Computes nothing, so that thousands of records take no time."""
    ones = batch.labels_BT.double()
    return TokenMeasures(ones, ones, None)


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

    append = ShardBuffer.append

    def noted(self, rows):
        most.append(len(taken) - len(most))
        append(self, rows)

    monkeypatch.setattr(corpora, "read_records", counted)
    monkeypatch.setattr(ShardBuffer, "append", noted)
    monkeypatch.setattr(indexing, "WHITENING_WINDOWS", 8)
    monkeypatch.setattr(DirectGradients, "measures", no_measures)
    outcome = make_index(tmp_path / "index", corpus, token_vectors=0)
    assert outcome.totals.records == count == len(most)
    assert max(most) <= plan.READ_AHEAD
    with Index.open(tmp_path / "index") as index:
        assert len(index.manifest.shards) == 3
        assert [w.id for w in index.iter_windows([0, 800, 1199])] == ["r0", "r800", "r1199"]
        assert np.all(np.diff(index.column("record")) == 1)
