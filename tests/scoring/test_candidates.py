"""What an index's token vectors propose: the estimates by loops, and what becomes of them."""

from __future__ import annotations

import math
from functools import cache, partial
from statistics import mean, median

import numpy as np
import pytest

from haiftrace.methods.layerwise import LEAST_DEVIATION, RECENCY, SURPRISE
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.scoring import indexed_model
from haiftrace.scoring.candidates import Candidates, SearchBudget
from haiftrace.scoring.gradient.family import BY_DIRECT
from haiftrace.scoring.layerwise import estimates
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.store import Index, inverted_file
from haiftrace.tracing.settings import Leak
from haiftrace.tracing.tracer import Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT, SENTENCES, traced, tracer

LEAKS = (
    Leak(PROMPT, ANSWER),
    Leak("Ines Quillfeather was born in", "Brackwater"),
    Leak("Call Oswin Darrowby at", "555-0109 after six."),
)


def asked(over: Tracer) -> list:
    with kit.precisely():
        return [over.query(leak, PromptSettings())[1].batch for leak in LEAKS]


def surprises(window) -> list[float]:
    """Of each label: its loss, and of those before it what is left of theirs."""
    found = [0.0]
    for loss, label in zip(window.token_loss.tolist(), window.labels, strict=True):
        if label:
            found.append(loss + RECENCY * found[-1])
    return found[1:]


def by_loops(over: Tracer, question) -> list[float]:
    """Estimated scores of all windows, from vectors as the index gives them back."""
    dimension = over.index.layout.token_vectors
    kept = [
        block.astype(float) for _, _, block in over.index.token_search.products(np.eye(dimension))
    ]
    rows = np.concatenate(kept)
    with kit.precisely():
        measures = over.session.model.similarity.measures(
            question, dimension, over.index.settings["seed"]
        )
    queries = measures.vectors_BTK[question.labels_BT].double().numpy()
    surprise = [surprises(window) for window in over.index.iter_windows()]
    usual = median(map(mean, surprise))
    pooled, first = [], 0
    for above in surprise:
        sums = np.zeros(len(queries))
        for one in above:
            weight = math.exp(-SURPRISE * max(0.0, one - usual))
            sums += weight * np.maximum(queries @ rows[first], 0) ** 3
            first += 1
        pooled.append((sums / math.sqrt(len(above))) ** (1 / 3))
    pooled_NQ = np.array(pooled)
    deviation = np.maximum(pooled_NQ.std(0), LEAST_DEVIATION)
    z = (pooled_NQ - np.median(pooled_NQ, 0)) / deviation
    return (np.maximum(z, 0) ** 2).sum(1).tolist()


@pytest.mark.parametrize("context", [None, 8])
@pytest.mark.parametrize("room", [1 << 28, 1])
def test_the_windows_with_the_largest_estimates_are_proposed(context, room, monkeypatch):
    """However many query tokens are scanned for at a time."""
    monkeypatch.setattr(estimates, "_MATRIX_BYTES", room)
    over = tracer(context=context)
    questions = asked(over)
    proposing = Candidates(
        over.index, lambda: over.session.model.similarity, ReferenceSample(over.index)
    )
    with kit.precisely():
        found = proposing.of(questions, SearchBudget(candidates=5))
    for question, rows in zip(questions, found, strict=True):
        right = by_loops(over, question)
        assert len({round(score, 5) for score in right}) > 5
        assert list(rows) == np.argsort(-np.array(right), kind="stable")[:5].tolist()


def test_everything_is_scored_where_nothing_is_proposed():
    def refused():
        raise AssertionError("the similarity was asked for")

    def candidates_of(index: Index) -> Candidates:
        return Candidates(index, refused, ReferenceSample(index))

    questions = asked(tracer())
    whole = [range(len(SENTENCES))] * len(questions)
    proposing = candidates_of(tracer().index)
    assert proposing.of(questions, SearchBudget(exact=True, candidates=2)) == whole
    assert proposing.of(questions, SearchBudget(candidates=len(SENTENCES))) == whole
    without = candidates_of(Index.open(kit.index_path(token_vectors=0)))
    assert without.of(questions, SearchBudget(candidates=2)) == whole
    assert proposing.of([], SearchBudget(candidates=len(SENTENCES))) == []


METHODS = ("haif", "haif-t", "gradient-product", "gradient-cosine")


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_full_gradients_score_what_direct_ones_propose(method):
    over = tracer()
    with kit.precisely():
        (rows,) = over.session.model.candidates.of(asked(over)[:1], SearchBudget(candidates=3))
    short = traced(over, method=method, candidates=3)
    assert {record.id for record in short.records} == {f"r{row}" for row in rows}
    assert (short.scored, short.exhaustive) == (3, False)
    assert short.notes.count(BY_DIRECT) == 1
    exact = traced(over, method=method, candidates=3, exact=True)
    assert (exact.scored, exact.exhaustive) == (len(SENTENCES), True)
    assert BY_DIRECT not in exact.notes
    right = {record.id: record.score for record in exact.records}
    kit.close([r.score for r in short.records], [right[r.id] for r in short.records], 1e-12)


def test_without_vectors_every_method_scores_everything():
    for method in ("haif", "layerwise"):
        finding = traced(tracer(token_vectors=0), method=method, candidates=3)
        assert finding.exhaustive
        assert finding.notes == ()


REFERENCE = 40


@cache
def larger() -> Tracer:
    """The sentences among some hundred short records, with a reference of a few of them."""
    places = ("Brackwater", "Lowmoor", "Heron Street", "Old Quay", "Fenwick", "Saltmarsh")
    names = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon")
    said = ("met", "wrote to", "was born near", "phoned", "works with", "lives beside")
    others = [
        f"{name} {verb} {place} in {1900 + 7 * n + m}."
        for n, name in enumerate(names)
        for m, verb in enumerate(said)
        for place in places
    ]
    texts = [*others[:150], *SENTENCES, *others[150:]]
    corpus = kit.write_corpus(kit.scratch("larger.jsonl"), texts)
    with kit.precisely(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_model, "ReferenceSample", partial(ReferenceSample, size=REFERENCE))
        kit.make_index(kit.scratch("larger"), corpus, token_vectors=512)
        return Tracer(Index.open(kit.scratch("larger")), kit.checkpoint())


def endings() -> list[Leak]:
    """Of each sentence its last words, after those that stand before them."""
    cut = [text.rsplit(" ", 2) for text in SENTENCES]
    return [Leak(before, f"{one} {two}") for before, one, two in cut]


@pytest.mark.parametrize("number", range(len(SENTENCES)))
def test_a_shortlist_finds_the_first_record_that_exact_finds(number):
    over = larger()
    leak = endings()[number]
    short = traced(over, leak, method="layerwise", candidates=16, top=1)
    exact = traced(over, leak, method="layerwise", exact=True, top=1)
    (ours,), (right,) = short.records, exact.records
    assert exact.exhaustive
    assert not short.exhaustive
    assert REFERENCE <= short.scored <= REFERENCE + 16 < exact.scored == len(over.index)
    assert right.id == f"r{150 + number}"
    assert ours.id == right.id
    assert ours.score == pytest.approx(right.score, rel=1e-9)
    kit.close(ours.layers, right.layers)


def test_most_of_the_first_records_are_not_in_the_reference():
    own = set(range(150, 150 + len(SENTENCES)))
    assert len(own & set(ReferenceSample(larger().index, REFERENCE).rows)) < len(own) / 2


def test_an_inverted_file_proposes_what_a_scan_does(monkeypatch):
    """Where it gives all tokens, and the reference is all windows."""
    monkeypatch.setattr(inverted_file, "_LEAST_SAMPLE", 4)
    over = tracer(faiss="BIVF2")
    assert not over.index.token_search.scans
    questions = asked(over)
    proposing = Candidates(
        over.index, lambda: over.session.model.similarity, ReferenceSample(over.index)
    )
    with kit.precisely():
        given = proposing.of(questions, SearchBudget(candidates=5))
        assert proposing.of([], SearchBudget(candidates=5)) == []
    for question, rows in zip(questions, given, strict=True):
        right = by_loops(over, question)
        assert list(rows) == np.argsort(-np.array(right), kind="stable")[:5].tolist()
