"""Tracing in the PII benches: a tiny model's records scored as `trace` scores them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from haiftrace.bench import indexes
from haiftrace.bench.ablation import DEFAULT, Variation
from haiftrace.bench.indexes import Bench, trajectory
from haiftrace.bench.pii import comparisons
from haiftrace.bench.pii import shortlist_recall as recall_module
from haiftrace.bench.pii.comparisons import Tracing, comparisons_for, read_ranks, trace_comparisons
from haiftrace.bench.pii.decoys import POOL, make_decoys
from haiftrace.bench.pii.ranking import ranking_rows
from haiftrace.bench.pii.shortlist_recall import DIMENSIONS, shortlist_recall
from haiftrace.bench.synthetic.make import make_data
from haiftrace.checkpoint.training_run import read_run
from haiftrace.errors import UsageError
from haiftrace.methods import METHODS
from haiftrace.progress import Silent
from haiftrace.scoring.candidates import SearchBudget
from haiftrace.scoring.gradient import stored_factors
from haiftrace.tracing.settings import Leak, TraceSettings
from tests import kit
from tests.bench.pii.tiny_pii import tiny
from tests.bench.trainings import train_in

ALL = [name for name in METHODS if name != "lissa"]


@cache
def trained(kind: str, arch: str):
    preset = tiny(kind)
    data = make_data(kind, "en_US", preset.subjects, preset.per_subject, 0)
    return data, train_in(data, preset, arch, 0, kit.scratch(f"bench-{kind}-{arch}"), Silent())


@pytest.mark.parametrize(("kind", "arch"), [("pii-e", "qwen2"), ("pii-cr", "gpt2")])
def test_a_bench_ranks_as_a_trace_does(kind, arch, tmp_path):
    """Every method on three questions; the same scores as one `trace` each, rank by rank."""
    data, run = trained(kind, arch)
    leaks = data.trained()[:3]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    bench.prepare(ALL)
    scores = bench.scores(leaks, DEFAULT, ALL)
    assert set(scores) == set(ALL)
    tracer = bench.tracer("linear", "all")
    settings = TraceSettings(",".join(ALL), top=100, methods=bench.settings)
    ids = [record.id for record in data.records]
    for number, leak in enumerate(leaks):
        response = leak.response
        for finding in tracer.trace(Leak(leak.prompt, response), settings, Silent()):
            expected_by_id = {record.id: record.score for record in finding.records}
            ours = scores[finding.method][number]
            expected = np.array([expected_by_id[record] for record in ids])
            assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max(), finding.method


def test_a_bench_that_goes_on_keeps_its_index_and_what_is_in_it(tmp_path):
    data, run = trained("pii-cr", "gpt2")

    def begun() -> Bench:
        return Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())

    first = begun()
    first.prepare(["ek-fac"])
    path = first.tracer("linear", "all").index.path
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_factors, "computed_factors", None)
        again = begun()
        again.prepare(["ek-fac"])
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.suffix != ".lock"} == before
    # Over another corpus it is made anew.
    few = replace(data, records=data.records[:3])
    other = Bench(tmp_path, few, run, "memorised", 1 << 29, Silent())
    assert len(other.tracer("linear", "all").index) == 3


def test_questions_share_a_pass_as_far_as_their_vectors_fit(tmp_path, monkeypatch):
    data, run = trained("pii-cr", "gpt2")
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    each = bench.tracer("linear", "all").session.model.engine.gradient_bytes
    monkeypatch.setattr(indexes, "free_memory", lambda device: 2 * 30 * each)
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
    scores = bench.scores([leak], Variation(combine=combine), ["haif"])["haif"][0]
    methods = replace(bench.settings, combine=combine)
    settings = TraceSettings("haif", top=100, methods=methods)
    (finding,) = bench.tracer("linear", "all").trace(
        Leak(leak.prompt, leak.response), settings, Silent()
    )
    right = {record.id: record.score for record in finding.records}
    expected = np.array([right[record.id] for record in data.records])
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3 * np.abs(expected).max())
    assert len(set(scores)) > 1


def test_a_regime_is_traced_with_its_ablation_shortlist_and_norms(tmp_path):
    data, run = trained("pii-e", "qwen2")
    names = ("layerwise", "haif", "gradient-cosine", "bm25")
    leaks = tuple(data.trained()[:4])
    tracing = Tracing(data, run, "learned", 0, leaks, tmp_path / "work", 1 << 29, "auto")
    chosen = comparisons_for(names, ablation=True)
    results = [rows for _, rows in trace_comparisons(tracing, chosen, Silent())]
    ranks = [row for rows in results for row in rows.get("ranks", ())]
    made = {(Variation(**row["variation"]), row["method"]) for row in ranks}
    assert (DEFAULT, "bm25") in made
    assert (Variation(scope="all"), "haif") in made
    assert (Variation(pool="documents"), "layerwise") in made
    assert (Variation(combine="positive", pool="documents"), "haif") in made
    assert (Variation(pool="one a subject"), "bm25") in made
    bm25 = next(r for r in ranks if r["method"] == "bm25")
    assert set(bm25["ranks"]) == {1}  # the question names the subject
    rows = ranking_rows(read_ranks(row) for row in ranks)
    assert {row["pool"] for row in rows} == {"all", "documents", "one a subject"}
    (decoys,) = (rows["decoys"] for rows in results if "decoys" in rows)
    assert {(r["method"], r["n"]) for r in decoys} == {(name, 4) for name in names}
    # Its words are the question's and the answer's: a fake lacks some of them.
    assert {r["value"] for r in decoys if r["method"] == "bm25"} == {1.0}
    (held,) = (rows["shortlist"] for rows in results if "shortlist" in rows)
    full = [r for r in held if r["candidates"] == 16]
    assert all(r["value"] == 1.0 for r in full)  # ten records: all are candidates
    searched = itertools.product(("layerwise", "haif"), DIMENSIONS)
    assert {(r["method"], r["dimension"]) for r in full} == set(searched)
    (norms,) = (rows["norms"] for rows in results if "norms" in rows)
    assert sum(r["share"] for r in norms if "tokens" in r) == pytest.approx(1.0)


def test_what_an_index_proposes_is_looked_for_among_the_candidates(tmp_path, monkeypatch):
    data, run = trained("pii-cr", "gpt2")
    leaks = data.trained()[:3]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    exact = bench.scores(leaks, DEFAULT, ["layerwise"])
    tracer = bench.tracer("linear", "all", 64)
    assert tracer.index.layout.token_vectors == 64
    assert bench.tracer("linear", "all").index.layout.token_vectors == 0
    monkeypatch.setattr(recall_module, "CANDIDATES", (1, 9))
    queries = [query.batch for query in bench.queries(tracer, leaks)]
    single, nearly_all = shortlist_recall(tracer, queries, exact)
    firsts = [
        rows[0] for rows in tracer.session.model.candidates.of(queries, SearchBudget(candidates=1))
    ]
    assert single["successes"] == sum(firsts == exact["layerwise"].argmax(1))
    assert single["successes"] <= nearly_all["successes"]
    assert (single["records"], single["n"], single["candidates"]) == (10, 3, 1)
    worst = {"layerwise": -exact["layerwise"]}
    assert shortlist_recall(tracer, queries, worst)[0]["successes"] == 0


def test_decoys_are_scored_by_the_curvature_of_the_records(tmp_path):
    data, run = trained("pii-e", "qwen2")
    leaks = data.trained()[:2]
    fakes = [decoy.record for decoy in make_decoys(data, leaks)]
    pools = {POOL: [*data.records[:4], *fakes]}
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent(), pools=pools)
    bench.prepare(["ek-fac"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_factors, "computed_factors", None)  # none are fitted to the decoys
        bench.reuse_factors("linear", POOL)
        scores = bench.scores(leaks, Variation(pool=POOL), ["haif", "ek-fac"])
    for method, scores_QR in bench.scores(leaks, DEFAULT, ["haif", "ek-fac"]).items():
        ours = scores[method]
        assert ours.shape == (2, 4 + len(fakes))
        assert np.abs(ours[:, :4] - scores_QR[:, :4]).max() <= 1e-4 * np.abs(scores_QR).max()


def test_where_names_run_out_a_regime_has_no_decoys(tmp_path, monkeypatch):
    def none_left(data, leaks):
        raise UsageError("There are no more names.", "")

    monkeypatch.setattr(comparisons, "make_decoys", none_left)
    data, run = trained("pii-e", "qwen2")
    tracing = Tracing(
        data, run, "learned", 0, tuple(data.trained()[:2]), tmp_path / "work", 1 << 29, "auto"
    )
    (comparison,) = (c for c in comparisons_for(["bm25", "ek-fac"], True) if c.name == "decoys")
    ((_, rows),) = trace_comparisons(tracing, [comparison], Silent())
    assert rows["decoys"] == []
    (seconds,) = rows["seconds"]
    assert (seconds["part"], seconds["regime"], seconds["seed"]) == ("decoys", "learned", 0)
    assert seconds["wall"] >= 0 <= seconds["processor"]


def test_checkpoints_of_a_regime_are_those_up_to_it():
    _, run = trained("pii-e", "qwen2")
    steps = read_run(trajectory(run, "memorised")).steps
    assert [step.path.name for step in steps] == [f"checkpoint-{c.step}" for c in run.checkpoints]
    early = replace(run, regimes={"learned": run.checkpoints[0].step})
    (only,) = read_run(trajectory(early, "learned")).steps
    assert only.path.name == f"checkpoint-{run.checkpoints[0].step}"
