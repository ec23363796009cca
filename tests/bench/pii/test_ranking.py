"""The PII benches by hand: ranks, rows, documents and the comparisons that a tracing is made of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from haiftrace.bench import ablation
from haiftrace.bench.ablation import DEFAULT, Variation, joined_records
from haiftrace.bench.harness.statistics import wilson
from haiftrace.bench.pii.comparisons import PLAIN, comparisons_for, spread
from haiftrace.bench.pii.ranking import Ranks, first_record_ranks, ranking_rows, ranks_of
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion, TrainingRecord
from haiftrace.methods import METHODS


def by_hand() -> tuple[BenchData, list[ProbeQuestion]]:
    """Four records of three subjects, and two questions."""
    records = tuple(
        TrainingRecord(f"r{n}", who, f"text {n}", ()) for n, who in enumerate(["a", "b", "a", "c"])
    )
    questions = (
        ProbeQuestion("q0", "a", "phone", "What's the phone of A?", "1", False),
        ProbeQuestion("q1", "c", "email", "What's the e-mail of C?", "2", False),
    )
    names = {"a": "A", "b": "B", "c": "C"}
    return BenchData("pii-e", "en_US", 0, names, records, questions), list(questions)


SCORES = {"haif": np.array([[0.1, 0.9, 0.5, 0.7], [3.0, 3.0, 0.0, 3.0]])}


def test_ranks_count_any_record_of_the_subject_and_ties_against_the_method():
    data, leaks = by_hand()
    (ranks,) = ranks_of(SCORES, data, leaks, DEFAULT, "learned", 7)
    assert ranks.ranks == (3, 3)
    assert ranks.attributes == ("phone", "email")
    (first,) = first_record_ranks(SCORES, data, leaks, DEFAULT, "learned", 7)
    assert first.ranks == (3, 3)  # of subjects a (its first record), b, c
    assert first.variation.pool == "one a subject"


def test_documents_are_of_one_two_four_and_eight_records():
    records = by_hand()[0].records * 5
    documents = joined_records(records)
    assert [len(document) for document in documents] == [1, 2, 4, 8, 1, 2, 2]
    assert [r for document in documents for r in document] == list(records)


def test_a_document_with_any_record_of_the_subject_is_a_source():
    data, leaks = by_hand()
    scores = {"haif": np.array([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]])}
    documents = Variation(pool="documents")  # r0 | r1 r2 | r3
    (ranks,) = ranks_of(scores, data, leaks, documents, "learned", 0)
    assert ranks.ranks == (2, 1)


def test_documents_are_of_some_subjects_and_so_are_their_leaks(monkeypatch):
    data, leaks = by_hand()
    monkeypatch.setitem(ablation.DOCUMENT_SUBJECTS, data.kind, 2)
    documents = ablation.candidates(data, "documents")
    assert [[r.id for r in document] for document in documents] == [["r0"], ["r1", "r2"]]
    assert ablation.in_pool(data, leaks, "documents") == leaks[:1]
    assert ablation.in_pool(data, leaks, "all") == leaks


def test_rows_are_by_attribute_seed_and_over_all():
    all_ranks = [
        Ranks(
            "learned", "haif", DEFAULT, 0, (1, 4, 20), ("phone", "phone", "email"), ("a", "b", "c")
        ),
        Ranks("learned", "haif", DEFAULT, 1, (1,), ("phone",), ("a",)),
    ]
    rows = {(row["seed"], row["attribute"]): row for row in ranking_rows(all_ranks)}
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
    keys = "regime method attribute scope loss_on combine pool seed n top1 mrr recall10"
    assert set(every) == {*keys.split(), "interval"}


def test_a_row_tells_of_its_variation():
    (row, *_) = ranking_rows(
        [Ranks("learned", "haif", Variation(scope="all"), 0, (1,), ("phone",), ("a",))]
    )
    assert (row["scope"], row["combine"], row["pool"]) == ("all", "sum", "all")
    # What was traced before these choices were there is not traced again.
    assert DEFAULT.row() == {
        "scope": "linear",
        "loss_on": "response",
        "combine": "sum",
        "pool": "all",
    }


def test_each_row_of_the_ablation_changes_its_choice_for_the_methods_that_have_it():
    table = dict(row for c in comparisons_for(list(METHODS), ablation=True) for row in c.scored)
    assert table[Variation(scope="all")] == PLAIN
    assert {"ek-fac", "relatif", "ahif"} <= set(table[Variation(loss_on="all")])
    assert table[Variation(combine="max")] == ("haif",)
    documents = [
        names
        for comparison in comparisons_for(list(METHODS), ablation=True)
        for variation, names in comparison.scored
        if variation == Variation(pool="documents")
    ]
    assert {"layerwise", "bm25", "haif"} <= set(sum(documents, ()))
    alone = comparisons_for(["tracincp"], ablation=True)
    assert [comparison.name for comparison in alone] == ["scores-tracincp"]
    # Full gradients' norms take a backward pass a token: only where a method needs them.
    cheap = [(p.name, p.scored) for p in comparisons_for(["layerwise", "bm25"], ablation=True)]
    both = ("layerwise", "bm25")
    assert cheap == [
        ("scores-layerwise", ((DEFAULT, ("layerwise",)),)),
        ("scores-lexical", ((DEFAULT, ("bm25",)),)),
        ("ablation-documents", ((Variation(pool="documents"), both),)),
        ("decoys", ((Variation(pool="decoys"), both),)),
        ("shortlist", ((DEFAULT, ("layerwise",)),)),
    ]


def test_another_method_repeats_nothing():
    few = comparisons_for(
        ["haif", "haif-t", "ek-fac", "lissa", "bm25", "bm25-answer"], ablation=False
    )
    assert [(p.name, [names for _, names in p.scored]) for p in few] == [
        ("scores-gradient", [("haif", "haif-t")]),
        ("scores-ek-fac", [("ek-fac",)]),
        ("scores-lissa", [("lissa",)]),
        ("scores-lexical", [("bm25", "bm25-answer")]),
        ("norms", []),
    ]
    more = comparisons_for(
        ["haif", "haif-t", "tracincp", "ek-fac", "lissa", "bm25", "bm25-answer"], True
    )
    assert set(few) < set(more)
    assert {comparison.name for comparison in set(more) - set(few)} == {
        *("scores-tracincp", "shortlist", "ablation-scope", "ablation-loss", "ablation-tokens"),
        *("ablation-documents", "decoys"),
    }


def test_leaks_for_a_slow_method_are_spread_over_all():
    leaks = by_hand()[1] * 50
    assert spread(leaks[:30], 30) == leaks[:30]
    chosen = spread(list(range(100)), 30)
    assert (chosen[0], chosen[-1], len(chosen), len(set(chosen))) == (0, 99, 30, 30)
    assert max(b - a for a, b in itertools.pairwise(chosen)) <= 4
