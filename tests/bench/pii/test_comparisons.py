"""Tracing in the PII benches: a tiny model's records scored as `trace` scores them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from haiftrace.bench import indexes as tracing
from haiftrace.bench.ablation import DEFAULT, Variation
from haiftrace.bench.indexes import Bench, trajectory
from haiftrace.bench.pii import measures as pii_tracing
from haiftrace.bench.pii import shortlist_recall as shortlist
from haiftrace.bench.pii.decoys import POOL, make_decoys
from haiftrace.bench.pii.measures import Tracing, parts_of, read_ranks, trace_parts
from haiftrace.bench.pii.ranking import rows_of
from haiftrace.bench.pii.shortlist_recall import DIMENSIONS, shortlist_recall
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.train import train
from haiftrace.checkpoint.training_run import read_run
from haiftrace.errors import UsageError
from haiftrace.methods import METHODS
from haiftrace.progress import Silent
from haiftrace.scoring import stored_factors as factors
from haiftrace.scoring.candidates import SearchBudget
from haiftrace.trace.tracer import Leak, TraceSettings
from tests import kit
from tests.bench.pii.tiny_pii import tiny

ALL = [name for name in METHODS if name != "lissa"]


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
    names = ("layerwise", "haif", "gradient-cosine", "bm25")
    leaks = tuple(data.trained()[:4])
    tracing = Tracing(data, run, "learned", 0, leaks, tmp_path / "work", 1 << 29, "auto")
    parts = parts_of(names, ablation=True)
    found = [one for _, one in trace_parts(tracing, parts, Silent())]
    ranks = [row for one in found for row in one.get("ranks", ())]
    made = {(Variation(**row["variation"]), row["method"]) for row in ranks}
    assert (DEFAULT, "bm25") in made
    assert (Variation(scope="all"), "haif") in made
    assert (Variation(pool="documents"), "layerwise") in made
    assert (Variation(combine="positive", pool="documents"), "haif") in made
    assert (Variation(pool="one a subject"), "bm25") in made
    bm25 = next(r for r in ranks if r["method"] == "bm25")
    assert set(bm25["ranks"]) == {1}  # the question names the subject
    rows = rows_of(read_ranks(row) for row in ranks)
    assert {row["pool"] for row in rows} == {"all", "documents", "one a subject"}
    (decoys,) = (one["decoys"] for one in found if "decoys" in one)
    assert {(r["method"], r["n"]) for r in decoys} == {(name, 4) for name in names}
    # Its words are the question's and the answer's: a fake lacks some of them.
    assert {r["value"] for r in decoys if r["method"] == "bm25"} == {1.0}
    (held,) = (one["shortlist"] for one in found if "shortlist" in one)
    full = [r for r in held if r["candidates"] == 16]
    assert all(r["value"] == 1.0 for r in full)  # ten records: all are candidates
    searched = itertools.product(("layerwise", "haif"), DIMENSIONS)
    assert {(r["method"], r["dimension"]) for r in full} == set(searched)
    (norms,) = (one["norms"] for one in found if "norms" in one)
    assert sum(r["share"] for r in norms if "tokens" in r) == pytest.approx(1.0)


def test_what_an_index_proposes_is_looked_for_among_the_candidates(tmp_path, monkeypatch):
    data, run = trained("pii-cr", "gpt2")
    leaks = data.trained()[:3]
    bench = Bench(tmp_path, data, run, "memorised", 1 << 29, Silent())
    exact = bench.scores(leaks, DEFAULT, ["layerwise"])
    tracer = bench.tracer("linear", "all", 64)
    assert tracer.index.layout.token_vectors == 64
    assert bench.tracer("linear", "all").index.layout.token_vectors == 0
    monkeypatch.setattr(shortlist, "CANDIDATES", (1, 9))
    questions = [question.batch for question in bench.questions(tracer, leaks)]
    one, nearly_all = shortlist_recall(tracer, questions, exact)
    best = [rows[0] for rows in tracer.candidates.of(questions, SearchBudget(candidates=1))]
    assert one["successes"] == sum(best == exact["layerwise"].argmax(1))
    assert one["successes"] <= nearly_all["successes"]
    assert (one["records"], one["n"], one["candidates"]) == (10, 3, 1)
    worst = {"layerwise": -exact["layerwise"]}
    assert shortlist_recall(tracer, questions, worst)[0]["successes"] == 0


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


def test_checkpoints_of_a_regime_are_those_up_to_it():
    _, run = trained("pii-e", "qwen2")
    steps = read_run(trajectory(run, "memorised")).steps
    assert [step.path.name for step in steps] == [f"checkpoint-{c.step}" for c in run.checkpoints]
    early = replace(run, regimes={"learned": run.checkpoints[0].step})
    (only,) = read_run(trajectory(early, "learned")).steps
    assert only.path.name == f"checkpoint-{run.checkpoints[0].step}"
