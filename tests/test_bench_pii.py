"""The PII benches: ranks and rows by hand, and a tiny run from data to tables."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from haiftrace.bench import pii_run, pii_tracing, tracing, variation
from haiftrace.bench.data import BenchData, Question, Record
from haiftrace.bench.decoys import BOTH, OTHER_NAME, OTHER_VALUE, POOL, make_decoys
from haiftrace.bench.models import Shape
from haiftrace.bench.optimise import Compute, Schedule
from haiftrace.bench.outputs import WORK_NAME, write_results
from haiftrace.bench.pii import make_data
from haiftrace.bench.pii_report import pii_results
from haiftrace.bench.pii_run import PiiOutcome, PiiSettings, chosen_preset, run_pii
from haiftrace.bench.pii_tracing import PLAIN, Tracing, parts_of, read_ranks, spread, trace_parts
from haiftrace.bench.presets import FINE_TUNING, PAPER_SIZES, find_preset
from haiftrace.bench.ranking import Ranks, one_a_subject, ranks_of, rows_of
from haiftrace.bench.statistics import wilson
from haiftrace.bench.tracing import Bench, trajectory
from haiftrace.bench.training import train
from haiftrace.bench.variation import DEFAULT, Variation, joined_records
from haiftrace.checkpoint import load_checkpoint
from haiftrace.errors import OutputError, UsageError
from haiftrace.methods import METHODS
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.scoring import factors
from haiftrace.trace import Leak, TraceSettings
from haiftrace.training_run import read_run
from tests import kit
from tests.kit import cli, refused

ALL = [name for name in METHODS if name != "lissa"]


def by_hand() -> tuple[BenchData, list[Question]]:
    """Four records of three subjects, and two questions."""
    records = tuple(
        Record(f"r{n}", who, f"text {n}", ()) for n, who in enumerate(["a", "b", "a", "c"])
    )
    questions = (
        Question("q0", "a", "phone", "What's the phone of A?", "1", False),
        Question("q1", "c", "email", "What's the e-mail of C?", "2", False),
    )
    names = {"a": "A", "b": "B", "c": "C"}
    return BenchData("pii-e", "en_US", 0, names, records, questions), list(questions)


SCORES = {"haif": np.array([[0.1, 0.9, 0.5, 0.7], [3.0, 3.0, 0.0, 3.0]])}


def test_ranks_count_any_record_of_the_subject_and_ties_against_the_method():
    data, leaks = by_hand()
    (found,) = ranks_of(SCORES, data, leaks, DEFAULT, "learned", 7)
    assert found.ranks == (3, 3)
    assert found.attributes == ("phone", "email")
    (first,) = one_a_subject(SCORES, data, leaks, DEFAULT, "learned", 7)
    assert first.ranks == (3, 3)  # of subjects a (its first record), b, c
    assert first.variation.pool == "one a subject"


def test_documents_are_of_one_two_four_and_eight_records():
    records = by_hand()[0].records * 5
    documents = joined_records(records)
    assert [len(parts) for parts in documents] == [1, 2, 4, 8, 1, 2, 2]
    assert [r for parts in documents for r in parts] == list(records)


def test_a_document_with_any_record_of_the_subject_is_a_source():
    data, leaks = by_hand()
    scores = {"haif": np.array([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]])}
    documents = Variation(pool="documents")  # r0 | r1 r2 | r3
    (found,) = ranks_of(scores, data, leaks, documents, "learned", 0)
    assert found.ranks == (2, 1)


def test_rows_are_by_attribute_seed_and_over_all():
    parts = [
        Ranks(
            "learned", "haif", DEFAULT, 0, (1, 4, 20), ("phone", "phone", "email"), ("a", "b", "c")
        ),
        Ranks("learned", "haif", DEFAULT, 1, (1,), ("phone",), ("a",)),
    ]
    rows = {(row["seed"], row["attribute"]): row for row in rows_of(parts)}
    assert set(rows) == {
        *((0, name) for name in ("average", "phone", "email")),
        *((1, name) for name in ("average", "phone", "email")),
        *(("all", name) for name in ("average", "phone", "email")),
    }
    every = rows["all", "average"]
    assert (every["n"], every["top1"]) == (4, 0.5)
    assert every["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 20 + 1) / 4)
    assert every["recall10"] == 0.75
    between = wilson(2, 4)
    assert every["interval"] == [between.low, between.high]
    assert rows[1, "email"]["n"] == 0
    assert rows[1, "email"]["top1"] is None
    keys = "regime method attribute scope loss_on combine pool power seed n top1 mrr recall10"
    assert set(every) == {*keys.split(), "interval"}


def test_a_row_tells_of_a_variation_what_the_method_looks_at():
    late = Variation(late_scope="value", power=1.0)
    about = {"haif": ("linear", "sum", None), "haif-li": ("value", None, 1.0)}
    for method, (scope, combine, power) in about.items():
        (row, *_) = rows_of([Ranks("learned", method, late, 0, (1,), ("phone",), ("a",))])
        assert (row["scope"], row["combine"], row["power"]) == (scope, combine, power)
    # What was traced before these choices were there is not traced again.
    assert DEFAULT.told() == {
        "scope": "linear",
        "loss_on": "response",
        "combine": "sum",
        "pool": "all",
    }
    assert late.told() == {**DEFAULT.told(), "late_scope": "value", "power": 1.0}


def test_each_row_of_the_ablation_changes_its_choice_for_the_methods_that_have_it():
    table = dict(row for part in parts_of(list(METHODS), ablation=True) for row in part.scored)
    assert table[Variation(scope="all")] == PLAIN
    assert {"ek-fac", "relatif", "ahif"} <= set(table[Variation(loss_on="all")])
    assert table[Variation(combine="max")] == ("haif",)
    documents = [
        names
        for part in parts_of(list(METHODS), ablation=True)
        for variation, names in part.scored
        if variation == Variation(pool="documents")
    ]
    assert [name in sum(documents, ()) for name in ("bm25", "haif-r")] == [True, True]
    for late in ({"late_scope": "value"}, {"late_scope": "linear"}, {"power": 1.0}):
        assert table[Variation(pool="one a subject", **late)] == ("haif-r", "haif-li")
    alone = parts_of(["tracincp"], ablation=True)
    assert [part.name for part in alone] == ["scores-tracincp", "norms"]


# A tiny run.

SHAPE = Shape(layers=1, width=32, inner=64, heads=2, context=256)


def tiny(kind: str):
    preset = find_preset("tiny", kind)
    schedule = Schedule(epochs=6, batch=5, learning_rate=1e-2, weight_decay=0.1)
    return replace(
        preset, subjects=5, per_subject=2, vocabulary=500, shape=SHAPE, schedule=schedule, kept=3
    )


@cache
def trained(kind: str, arch: str):
    preset = tiny(kind)
    data = make_data(kind, "en_US", preset.subjects, preset.per_subject, 0)
    return data, train(data, preset, arch, 0, kit.scratch(f"bench-{kind}-{arch}"), Silent())


@pytest.mark.parametrize(("kind", "arch"), [("pii-e", "qwen2"), ("pii-cr", "gpt2")])
def test_a_bench_ranks_as_a_trace_does(kind, arch, tmp_path):
    """Every method on three questions; the same scores as one `trace` each, rank by rank."""
    data, run = trained(kind, arch)
    leaks = data.trained()[:3]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    bench.keep(ALL)
    found = bench.scores(leaks, DEFAULT, ALL)
    assert list(found) == sorted(found, key=list(found).index)
    assert set(found) == set(ALL)
    tracer = bench.tracer("linear", "all")
    settings = TraceSettings(",".join(ALL), top=100, methods=bench.settings)
    ids = [record.id for record in data.records]
    for number, leak in enumerate(leaks):
        response = leak.response
        for finding in tracer.trace(Leak(leak.prompt, response), settings, Silent()):
            right = {record.id: record.score for record in finding.records}
            ours = found[finding.method][number]
            expected = np.array([right[record] for record in ids])
            assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max(), finding.method


def test_a_bench_that_goes_on_keeps_its_index_and_what_is_in_it(tmp_path):
    data, run = trained("pii-cr", "gpt2")

    def begun() -> Bench:
        return Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())

    first = begun()
    first.keep(["ek-fac"])
    path = first.tracer("linear", "all").index.path
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors, "computed_factors", None)
        again = begun()
        again.keep(["ek-fac"])
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"} == before
    # Over another corpus it is made anew.
    few = replace(data, records=data.records[:3])
    other = Bench(tmp_path, few, run, "memorised", 1 << 29, Silent())
    assert len(other.tracer("linear", "all").index) == 3


@pytest.mark.parametrize("late", [False, True])
def test_an_index_for_other_methods_serves_a_bench_that_goes_on(late, tmp_path):
    data, run = trained("pii-cr", "gpt2")

    def bench(late: bool) -> Bench:
        methods = ["haif-r"] if late else []
        return Bench(tmp_path, data, run, "memorised", 1 << 29, Silent(), methods=methods)

    path = bench(late).tracer("linear", "all").index.path
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"}
    again = bench(not late)
    tracer = again.tracer("linear", "all")
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"} == before
    (leak,) = data.trained()[:1]
    found = again.scores([leak], Variation(), ["haif-r"])["haif-r"][0]
    settings = TraceSettings("haif-r", top=100)
    (finding,) = tracer.trace(Leak(leak.prompt, leak.response), settings, Silent())
    right = {record.id: record.score for record in finding.records}
    expected = np.array([right[record.id] for record in data.records])
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_questions_share_a_pass_as_far_as_their_vectors_fit(tmp_path, monkeypatch):
    data, run = trained("pii-cr", "gpt2")
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    each = bench.tracer("linear", "all").engine.gradient_bytes
    monkeypatch.setattr(tracing, "free_memory", lambda device: 2 * 30 * each)
    counts: list[int] = []
    windows = Bench._windows

    def counted(self, tracer, leaks, *rest):
        counts.append(len(leaks))
        return windows(self, tracer, leaks, *rest)

    monkeypatch.setattr(Bench, "_windows", counted)
    leaks = (*data.questions, *data.questions, *data.questions)[:27]
    assert len(leaks) == 27
    for varied, method in (
        (Variation(), "haif"),
        (Variation(), "tracincp"),
        (Variation(combine="max"), "haif"),
    ):
        bench.scores(leaks, varied, [method])
    # Half of the memory has room for 30 vectors; of a question 1, 2 or 3 are held, and 4 beside.
    assert counts == [26, 1, 11, 11, 5, 6, 6, 6, 6, 3]


@pytest.mark.parametrize("combine", ["positive", "max"])
def test_other_combinations_are_those_of_a_trace(combine, tmp_path):
    data, run = trained("pii-cr", "gpt2")
    (leak,) = data.trained()[:1]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    bench.scores([leak], Variation(combine="max"), ["haif"])  # one pass serves both
    found = bench.scores([leak], Variation(combine=combine), ["haif"])["haif"][0]
    methods = replace(bench.settings, combine=combine)
    settings = TraceSettings("haif", top=100, methods=methods)
    (finding,) = bench.tracer("linear", "all").trace(
        Leak(leak.prompt, leak.response), settings, Silent()
    )
    right = {record.id: record.score for record in finding.records}
    expected = np.array([right[record.id] for record in data.records])
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3 * np.abs(expected).max())
    assert len(set(found)) > 1


def test_a_regime_is_traced_with_its_ablation_shortlist_and_norms(tmp_path):
    data, run = trained("pii-e", "qwen2")
    names = ("haif", "gradient-cosine", "haif-r", "haif-li", "bm25")
    leaks = tuple(data.trained()[:4])
    tracing = Tracing(data, run, "learned", 0, leaks, tmp_path / "work", 1 << 29, "auto")
    parts = parts_of(names, ablation=True)
    found = [one for _, one in trace_parts(tracing, parts, Silent())]
    ranks = [row for one in found for row in one.get("ranks", ())]
    made = {(Variation(**row["variation"]), row["method"]) for row in ranks}
    assert (DEFAULT, "bm25") in made
    assert (Variation(scope="all"), "haif") in made
    assert (Variation(combine="positive", pool="documents"), "haif") in made
    assert (Variation(pool="one a subject"), "bm25") in made
    assert (Variation(pool="one a subject", late_scope="value"), "haif-li") in made
    bm25 = next(r for r in ranks if r["method"] == "bm25")
    assert set(bm25["ranks"]) == {1}  # the question names the subject
    rows = rows_of(read_ranks(row) for row in ranks)
    assert {row["pool"] for row in rows} == {"all", "documents", "one a subject"}
    (decoys,) = (one["decoys"] for one in found if "decoys" in one)
    assert {(r["method"], r["n"]) for r in decoys} == {(name, 4) for name in names}
    # Its words are the question's and the answer's: a fake lacks some of them.
    assert {r["value"] for r in decoys if r["method"] == "bm25"} == {1.0}
    (shortlist,) = (one["shortlist"] for one in found if "shortlist" in one)
    full = [r for r in shortlist if r["candidates"] == 16]
    assert all(r["value"] == 1.0 for r in full)  # ten records: all are candidates
    by_record = {("haif", "record"), ("haif-r", "record"), ("haif-li", "record")}
    by_token = {("haif-r", "token"), ("haif-li", "token")}
    assert {(r["method"], r["vectors"]) for r in full} == by_record | by_token
    (norms,) = (one["norms"] for one in found if "norms" in one)
    assert sum(r["share"] for r in norms if "tokens" in r) == pytest.approx(1.0)


def test_another_method_repeats_nothing():
    few = parts_of(["haif", "haif-t", "ek-fac", "lissa", "bm25", "bm25-answer"], ablation=False)
    assert [(p.name, [names for _, names in p.scored]) for p in few] == [
        ("scores-gradient", [("haif", "haif-t")]),
        ("scores-ek-fac", [("ek-fac",)]),
        ("scores-lissa", [("lissa",)]),
        ("scores-words", [("bm25", "bm25-answer")]),
        ("norms", []),
    ]
    more = parts_of(["haif", "haif-t", "tracincp", "ek-fac", "lissa", "bm25", "bm25-answer"], True)
    assert set(few) < set(more)
    assert {part.name for part in set(more) - set(few)} == {
        *("scores-tracincp", "shortlist", "ablation-scope", "ablation-loss", "ablation-tokens"),
        *("ablation-documents", "decoys"),
    }


def test_variations_of_late_interaction_are_those_of_a_trace(tmp_path):
    data, run = trained("pii-cr", "gpt2")
    leak = data.trained()[0]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    found = {}
    for told in ({"scope": "value"}, {"scope": "linear"}, {"power": 1.0}):
        late = LateSettings(**told)
        variation = Variation(late_scope=late.scope, power=late.power)
        scores = bench.scores([leak], variation, ["haif-r", "haif-li"])
        settings = TraceSettings("haif-r,haif-li", top=100, methods=MethodSettings(late=late))
        for finding in bench.tracer("linear", "all").trace(
            Leak(leak.prompt, leak.response), settings, Silent()
        ):
            right = {record.id: record.score for record in finding.records}
            expected = np.array([right[record.id] for record in data.records])
            ours = scores[finding.method][0]
            assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max()
            found[str(told), finding.method] = tuple(ours)
    assert len(set(found.values())) == 6


def test_decoys_are_scored_by_the_curvature_of_the_records(tmp_path):
    data, run = trained("pii-e", "qwen2")
    leaks = data.trained()[:2]
    fakes = [decoy.record for decoy in make_decoys(data, leaks)]
    pools = {POOL: [*data.records[:4], *fakes]}
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent(), pools=pools)
    bench.keep(["ek-fac"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factors, "computed_factors", None)  # none are fitted to the decoys
        bench.share_factors("linear", POOL)
        scores = bench.scores(leaks, Variation(pool=POOL), ["haif", "ek-fac"])
    for method, scores_QR in bench.scores(leaks, DEFAULT, ["haif", "ek-fac"]).items():
        ours = scores[method]
        assert ours.shape == (2, 4 + len(fakes))
        assert np.abs(ours[:, :4] - scores_QR[:, :4]).max() <= 1e-4 * np.abs(scores_QR).max()


def test_decoys_are_reported_by_kind_over_all_seeds():
    told = {"regime": "memorised", "method": "haif-li", "interval": None, "n": 4, "value": 0}
    rows = [
        {**told, "decoy": kind, "seed": seed, "successes": count}
        for seed in (0, 1)
        for kind, count in ((OTHER_VALUE, 4), (OTHER_NAME, 3), (BOTH, 2))
    ]
    settings = PiiSettings("pii-e", seeds=2)
    outcome = PiiOutcome(settings, chosen_preset(settings), [], [], [], [], {}, 0.0, rows)
    results = pii_results(outcome)
    every = [row for row in results.sections["decoys"] if row["seed"] == "all"]
    assert [(r["decoy"], r["successes"], r["n"]) for r in every] == [
        (OTHER_VALUE, 8, 8),
        (OTHER_NAME, 6, 8),
        (BOTH, 4, 8),
    ]
    assert every[1]["interval"] == [wilson(6, 8).low, wilson(6, 8).high]
    lines = results.table.splitlines()
    (row,) = (line for line in lines if line.startswith("| haif-li"))
    shares = [cell.strip().split(" (")[0] for cell in row.split("|")[2:-1]]
    assert shares == ["100 %", "75 %", "50 %"]
    (head,) = (line for line in lines if OTHER_VALUE in line)
    assert f"memorised: {OTHER_NAME}" in head
    empty = PiiOutcome(settings, chosen_preset(settings), [], [], [], [], {}, 0.0)
    assert "Decoys" not in pii_results(empty).table


def test_where_names_run_out_a_regime_has_no_decoys(tmp_path, monkeypatch):
    def none_left(data, leaks):
        raise UsageError("There are no more names.", "")

    monkeypatch.setattr(pii_tracing, "make_decoys", none_left)
    data, run = trained("pii-e", "qwen2")
    tracing = Tracing(
        data, run, "learned", 0, tuple(data.trained()[:2]), tmp_path / "work", 1 << 29, "auto"
    )
    (part,) = (p for p in parts_of(["bm25", "ek-fac"], True) if p.name == "decoys")
    ((_, found),) = trace_parts(tracing, [part], Silent())
    assert found["decoys"] == []
    (took,) = found["seconds"]
    assert (took["part"], took["regime"], took["seed"]) == ("decoys", "learned", 0)
    assert took["wall"] >= 0 <= took["processor"]


def test_documents_are_of_some_subjects_and_so_are_their_leaks(monkeypatch):
    data, leaks = by_hand()
    monkeypatch.setitem(variation.DOCUMENT_SUBJECTS, data.kind, 2)
    documents = variation.candidates(data, "documents")
    assert [[r.id for r in parts] for parts in documents] == [["r0"], ["r1", "r2"]]
    assert variation.in_pool(data, leaks, "documents") == leaks[:1]
    assert variation.in_pool(data, leaks, "all") == leaks


def test_checkpoints_of_a_regime_are_those_up_to_it():
    _, run = trained("pii-e", "qwen2")
    steps = read_run(trajectory(run, "memorised")).steps
    assert [step.path.name for step in steps] == [f"checkpoint-{c.step}" for c in run.checkpoints]
    early = replace(run, regimes={"learned": run.checkpoints[0].step})
    (only,) = read_run(trajectory(early, "learned")).steps
    assert only.path.name == f"checkpoint-{run.checkpoints[0].step}"


def test_a_run_writes_its_tables_and_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    # A model this small answers no held-out question: the trained ones stand in for them.
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:3])
    settings = PiiSettings("pii-e", methods="haif,bm25-answer", seeds=2, ablation=False)
    monkeypatch.setattr(pii_run, "cores", lambda: 2)  # the regimes side by side
    results = pii_results(run_pii(settings, tmp_path / "out", Silent()))
    write_results(tmp_path / "out", results)
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert document["bench"] == "pii-e"
    assert document["seeds"] == [0, 1]
    assert {row["regime"] for row in document["tracing"]} == {"learned", "memorised"}
    assert {row["seed"] for row in document["tracing"]} == {0, 1, "all"}
    for row in document["tracing"]:
        assert DEFAULT.row(row["method"]).items() <= row.items()
    assert {row["pool"] for row in document["ablation"]} == {"one a subject"}
    assert {row["regime"] for row in document["prediction"]} == {"learned", "memorised"}
    table = (tmp_path / "out/table.md").read_text()
    assert "## Tracing accuracy, top-1" in table
    assert (tmp_path / "out/norm-by-position.svg").exists()
    # Every stage is kept: nothing is trained, indexed or scored again.
    for name in ("trace_parts", "side_by_side"):
        monkeypatch.setattr(pii_run, name, None)
    again = pii_results(run_pii(settings, tmp_path / "out", Silent()))
    assert again.table == results.table


def test_a_given_checkpoint_is_fine_tuned_from_its_weights(tmp_path, monkeypatch):
    data = make_data("pii-e", "en_US", 8, 1, seed=3)
    start = train(data, tiny("pii-e"), "llama", 0, tmp_path / "start", Silent()).path("memorised")
    given = replace(
        find_preset(FINE_TUNING, "pii-e", given=True), subjects=8, per_subject=1, kept=2
    )
    still = replace(given, schedule=Schedule(epochs=1, batch=4, learning_rate=0, weight_decay=0))
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: still)
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:2])
    settings = PiiSettings(
        "pii-e", model=str(start), methods="haif,ek-fac", ablation=False, regimes=("memorised",)
    )
    outcome = run_pii(settings, tmp_path / "out", Silent())
    assert {row["regime"] for row in outcome.prediction} == {"memorised"}
    assert {ranks.method for ranks in outcome.ranks} == {"haif", "ek-fac"}
    # At a learning rate of 0 the checkpoint is what was given, tokenizer and all.
    (kept,) = (tmp_path / "out" / WORK_NAME / "training").glob("*/checkpoint-2")
    assert (kept / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    before, after = (load_checkpoint(path).model.state_dict() for path in (start, kept))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "fine-tuned" in pii_results(outcome).table


def test_mixed_precision_trains_to_about_the_same_losses(tmp_path):
    data = make_data("pii-e", "en_US", 8, 1, seed=3)
    short = replace(tiny("pii-e"), schedule=Schedule(3, 4, 3e-3, 0.1), kept=1)
    exact, mixed = (
        train(data, short, "llama", 0, tmp_path, Silent(), compute=Compute(dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert exact.directory != mixed.directory
    losses = [run.checkpoints[-1].record_loss for run in (exact, mixed)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    weights = load_checkpoint(mixed.path("memorised")).model.state_dict().values()
    assert {value.dtype for value in weights} == {torch.float32}


@pytest.mark.parametrize("preset", PAPER_SIZES, ids=lambda preset: preset.name)
def test_the_papers_sizes_want_a_checkpoint_and_print_what_was_published(preset):
    with pytest.raises(UsageError, match="none is given") as caught:
        chosen_preset(PiiSettings("pii-e", preset=preset.name))
    assert "--model" in caught.value.hint
    for kind, lead in (("pii-e", "20.96 to 73.71"), ("pii-cr", "3.21 to 45.93")):
        settings = PiiSettings(kind, preset=preset.name, model="anywhere/mine")
        chosen = chosen_preset(settings)
        assert (chosen.name, chosen.kind, chosen.per_subject) == (preset.name, kind, 1)
        empty = PiiOutcome(settings, chosen, [], [], [], [], {}, 0.0)
        assert lead in pii_results(empty).table
    with pytest.raises(UsageError, match="from scratch"):
        chosen_preset(PiiSettings("pii-e", preset="tiny", model="anywhere/mine"))


def test_a_biographers_texts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: [])
    asked = []

    def write(source, locale, people, per_subject, seed, progress):
        asked.append(source)
        said = [
            [f"{p.name}: {'; '.join(p.values.values())}, {n}." for n in range(per_subject)]
            for p in people
        ]
        return dict(zip([p.id for p in people], said, strict=True))

    monkeypatch.setattr(pii_run, "model_biographies", write)
    settings = PiiSettings("pii-e", biographer=str(kit.checkpoint_path()), methods="haif")
    for _ in range(2):
        run_pii(settings, tmp_path / "out", Silent())
    assert asked == [kit.checkpoint_path()]
    with pytest.raises(UsageError, match="Only pii-e"):
        run_pii(replace(settings, kind="pii-cr"), tmp_path / "cr", Silent())


def test_leaks_for_a_slow_method_are_spread_over_all():
    leaks = by_hand()[1] * 50
    assert spread(leaks[:30], 30) == leaks[:30]
    some = spread(list(range(100)), 30)
    assert (some[0], some[-1], len(some), len(set(some))) == (0, 99, 30, 30)
    assert max(b - a for a, b in itertools.pairwise(some)) <= 4


def test_one_core_traces_one_regime_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:2])
    settings = PiiSettings("pii-cr", methods="haif", ablation=False)
    tables = []
    for count in (1, 2):
        monkeypatch.setattr(pii_run, "cores", lambda count=count: count)
        outcome = run_pii(settings, tmp_path / str(count), Silent())
        tables.append(pii_results(outcome).table)
    assert tables[0] == tables[1]


def test_settings_that_make_no_experiment_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no method"):
        run_pii(PiiSettings("pii-e", methods="magic"), tmp_path / "a", Silent())
    with pytest.raises(UsageError, match="no preset"):
        run_pii(PiiSettings("pii-e", preset="huge"), tmp_path / "a", Silent())
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        run_pii(PiiSettings("pii-e"), tmp_path / "b", Silent())


def test_the_command_refuses_what_makes_no_experiment(tmp_path: Path):
    refused(cli("bench", "pii-e", "--methods", "magic", "--out", tmp_path / "o"), "no method")
    refused(cli("bench", "pii-cr", "--preset", "huge", "--out", tmp_path / "o"), "no preset")
