"""The CLUE bench: samples that survive as text, ranks, and a small run from corpus to figure."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from haiftrace.bench.clue import run as clue_run
from haiftrace.bench.clue import training as clue_training
from haiftrace.bench.clue.corpus import Document, read_documents
from haiftrace.bench.clue.ranks import SampleIndex, own_ranks, unique_tests
from haiftrace.bench.clue.report import clue_results
from haiftrace.bench.clue.run import ClueSettings, run_clue, sweep_rows
from haiftrace.bench.clue.samples import Cut, Sample, Sweep, cut_samples, plan_sweeps
from haiftrace.bench.clue.training import CLUE_PRESETS, CluePreset, make_samples, schedule_for
from haiftrace.bench.harness.figures import Panel, PlotSeries, lines
from haiftrace.bench.harness.results import write_results
from haiftrace.bench.training.loop import Schedule
from haiftrace.bench.training.models import Shape
from haiftrace.errors import CorpusError, UsageError
from haiftrace.methods import DEFAULT_METHOD, METHODS
from haiftrace.progress import Silent
from haiftrace.store import Index

PRESET = CluePreset("test", 500, Shape(1, 24, 48, 2, 16), Schedule(4, 4, 1e-2, 0.1))
SAMPLES, LENGTH = 10, 16


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(CLUE_PRESETS, "test", PRESET)
    monkeypatch.setattr(clue_training, "FEWEST_STEPS", 150)


# Samples


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
def test_every_sample_is_what_its_own_text_is_tokenised_to(arch):
    made = make_samples(read_documents([]), PRESET, arch, 60, 32)
    for sample, text in zip(made.samples, made.texts, strict=True):
        assert len(sample.token_ids) == 32
        assert tuple(made.tokenizer(text).input_ids) == sample.token_ids
        assert "\ufffd" not in text


def test_samples_are_runs_of_the_corpus_in_its_order_with_little_lost_between():
    documents = list(read_documents([]))
    made = make_samples(documents, PRESET, "qwen2", 60, 32)
    corpus = "".join(document.text + "\n" for document in documents)
    stream = list(made.tokenizer(corpus).input_ids)
    end = 0
    for sample in made.samples:
        starts = (
            at
            for at in range(end, len(stream) - 31)
            if tuple(stream[at : at + 32]) == sample.token_ids
        )
        start = next(starts)
        assert start - end < 32
        end = start + 32


def test_the_tokens_of_documents_are_those_of_all_the_text_together():
    for arch in ("qwen2", "gpt2"):
        made = make_samples(read_documents([]), PRESET, arch, 4, 16)
        texts = ["甲一。", "It rains", "12 个", "“引文”", "end!?", "甲"]
        apart = [i for text in texts for i in made.tokenizer(text + "\n").input_ids]
        assert made.tokenizer("".join(text + "\n" for text in texts)).input_ids == apart


def test_a_run_that_is_refused_begins_a_token_later():
    documents = [
        Document("abcdef", "a.txt", 1),
        Document("gh", "a.txt", 2),
        Document("ijklmnop", "a.txt", 3),
    ]

    def keeps(token_ids):
        return chr(token_ids[0]) not in "dgh"

    samples = cut_samples(documents, lambda text: [ord(c) for c in text], 4, 3, keeps)
    runs = [("".join(map(chr, s.token_ids)), s.line) for s in samples]
    assert runs == [("abc", 1), ("efg", 1), ("ijk", 3), ("lmn", 3)]


def test_too_little_text_is_refused():
    with pytest.raises(CorpusError, match="gives 0 samples"):
        make_samples([Document("一点。", "a.txt", 1)], PRESET, "qwen2", 2, 64)


def test_few_samples_are_shown_more_often():
    assert schedule_for(PRESET, 8).epochs == 75
    assert schedule_for(PRESET, 4 * 150).epochs == 4


# Ranks


def test_ranks_by_hand():
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    assert own_ranks(scores, [0, 1, 1, 2]) == [1, 3, 2, 3]


def test_tests_that_stand_in_one_sample_only():
    samples = [
        Sample(0, (1, 2, 3, 4), "a", 1),
        Sample(1, (9, 1, 2, 7), "a", 2),
        Sample(2, (5, 6, 5, 6), "a", 3),
    ]
    # (1, 2) stands in 0 and 1; (9, 1) and (5, 6) in one sample each.
    assert unique_tests(samples, Cut(0, 2)) == 2
    assert unique_tests(samples, Cut(0, 3)) == 3


def test_rows_by_hand():
    cuts = (Cut(0, 2), Cut(0, 4))
    ranks = {0: {"haif": {cuts[0]: [1, 2, 20], cuts[1]: [1, 1, 1]}}}
    ranks[1] = {"haif": {cuts[0]: [1, 1, 4], cuts[1]: [1, 1, 2]}}
    rows = sweep_rows((Sweep("a", "length", 0, cuts),), ranks)
    assert [(row["length"], row["seed"], row["n"]) for row in rows] == [
        *((2, 0, 3), (2, 1, 3), (2, "all", 6), (4, 0, 3), (4, 1, 3), (4, "all", 6))
    ]
    first, every = rows[0], rows[2]
    assert first["top1"] == pytest.approx(1 / 3)
    assert first["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 20) / 3)
    assert first["recall10"] == pytest.approx(2 / 3)
    assert every["top1"] == pytest.approx(3 / 6)
    assert every["interval"][0] < 0.5 < every["interval"][1]
    assert {row["panel"] for row in rows} == {"a"}


# The bench end to end


def watched(monkeypatch):
    """The names of the methods that are scored from now on."""
    scored = []
    ranks = SampleIndex.ranks

    def noting(self, cuts, names):
        scored.extend(names)
        return ranks(self, cuts, names)

    monkeypatch.setattr(SampleIndex, "ranks", noting)
    return scored


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bench") / "clue"


SETTINGS = ClueSettings(
    preset="test",
    samples=SAMPLES,
    length=LENGTH,
    methods="layerwise,haif,gradient-cosine,tracincp,ek-fac,attif,ahif,bm25-answer",
)


@pytest.fixture
def outcome(out):
    """Run once; later tests read the stages that it left."""
    return run_clue(SETTINGS, out, Silent())


def test_a_whole_run_is_written(out, outcome):
    results = clue_results(outcome)
    write_results(out, results)
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    cuts = [cut for sweep in plan_sweeps(LENGTH) for cut in sweep.cuts]
    assert len(document["sweeps"]) == len(cuts) * 8 * 2
    assert set(document["sweeps"][0]) == {
        *("panel", "varied", "offset", "length", "method", "seed"),
        *("n", "top1", "interval", "mrr", "recall10"),
    }
    assert all(row["n"] == SAMPLES for row in document["sweeps"])
    assert document["training"][-1]["record_loss"] < 0.5
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "(a) Tests from token 0 on, by length" in table
    assert "Mean loss of the samples" in table
    for suffix in ("png", "svg"):
        assert (out / f"sweeps.{suffix}").stat().st_size > 1000


def test_a_sample_finds_itself_by_every_method(outcome):
    """All of a sample is the test: the record's own gradient at the traced checkpoint."""
    top1 = {
        row["method"]: row["top1"]
        for row in outcome.sweeps
        if row["panel"] == "a" and row["length"] == LENGTH and row["seed"] == "all"
    }
    assert top1["gradient-cosine"] == 1
    assert top1["bm25-answer"] == 1
    assert top1["haif"] >= 0.9
    assert top1["layerwise"] >= 0.9


def test_a_second_run_repeats_nothing(out, outcome, monkeypatch):
    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(clue_training, "_train", refuse)
    monkeypatch.setattr(SampleIndex, "ranks", refuse)
    again = run_clue(SETTINGS, out, Silent())
    assert again.sweeps == outcome.sweeps
    assert again.training == outcome.training


def test_another_method_is_added_to_what_is_there(out, outcome, monkeypatch):
    scored = watched(monkeypatch)
    settings = dataclasses.replace(SETTINGS, methods="haif,gradient-cosine,bm25-answer,bm25")
    again = run_clue(settings, out, Silent())
    assert scored == ["bm25-answer", "bm25"]
    by_method = {}
    for row in again.sweeps:
        by_method.setdefault(row["method"], []).append(row["top1"])
    assert by_method["bm25"] == by_method["bm25-answer"]


def test_an_interrupted_run_goes_on_after_the_last_finished_group(out, outcome, monkeypatch):
    settings = dataclasses.replace(SETTINGS, methods="haif-t,bm25")
    ranks = SampleIndex.ranks

    def interrupted(self, cuts, names):
        if names == ["bm25"]:
            raise KeyboardInterrupt
        return ranks(self, cuts, names)

    with monkeypatch.context() as patch:
        patch.setattr(SampleIndex, "ranks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_clue(settings, out, Silent())
    scored = watched(monkeypatch)
    again = run_clue(settings, out, Silent())
    assert scored == ["bm25"]
    assert {row["method"] for row in again.sweeps} == {"haif-t", "bm25"}


def test_each_method_of_the_registry_has_a_line_of_its_own():
    series = [PlotSeries(name, [2, 4, 8], [0, 50, 100]) for name in METHODS]
    figure = lines([Panel("a", "x", "y", series, doubling=True, y_range=(-3, 103))] * 3)
    plotted = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in plotted}) == len(METHODS)
    assert len({(line.get_color(), line.get_marker()) for line in plotted}) == len(METHODS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(METHODS)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2", "4", "8"]


def test_the_index_holds_the_trained_tokens(out, outcome):
    (path,) = (out / "work").glob("index-*/index")
    made = make_samples(read_documents([]), PRESET, "qwen2", SAMPLES, LENGTH)
    with Index.open(path) as index:
        windows = list(index.iter_windows())
        losses = index.column("loss")
    assert [tuple(window.token_ids) for window in windows] == [s.token_ids for s in made.samples]
    # The loss that training reports is the index's own, label for label.
    assert losses.mean() == pytest.approx(outcome.training[-1]["record_loss"], rel=1e-3)


def test_the_default_methods_are_all_but_the_slow_and_the_double_one():
    names = clue_run.DEFAULT_METHODS.split(",")
    assert set(METHODS) - set(names) == {"lissa", "bm25"}
    assert names[0] == DEFAULT_METHOD


def test_sizes():
    assert ClueSettings().size() == (64, 128)
    assert ClueSettings(corpus=("x",)).size() == (100, 256)
    assert ClueSettings(corpus=("x",), length=64).size() == (100, 64)


def test_settings_that_make_no_experiment(tmp_path):
    with pytest.raises(UsageError, match="There is no preset"):
        run_clue(ClueSettings(preset="huge"), tmp_path / "a", Silent())
    with pytest.raises(UsageError, match="There is no method"):
        run_clue(ClueSettings(methods="guess"), tmp_path / "a", Silent())
    with pytest.raises(UsageError, match="do not fit"):
        run_clue(ClueSettings(length=8, fixed_offset=9), tmp_path / "a", Silent())
    assert not (tmp_path / "a").exists()
