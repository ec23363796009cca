"""What must not change a score by late interaction: padding, company, order, the shortlist."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from haiftrace.methods import find_methods
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring import batches, late
from haiftrace.scoring.best import Tally
from haiftrace.scoring.late import LateScorer, LateSearch
from haiftrace.store import Index
from haiftrace.store.sample import sample_rows
from haiftrace.trace import Leak, Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.tiny_models import SENTENCES

METHODS = ("haif-r", "haif-li", "haif-rli")
NAMES = ("gpt2", "llama")
LEAK = Leak(PROMPT, ANSWER)
LEAST = {"projection_dim": 16, "token_vectors": 0}
SHUFFLED = tuple(random.Random(3).sample(SENTENCES, len(SENTENCES)))


@cache
def over(name: str, texts: tuple[str, ...] = SENTENCES, context: int = 64) -> Tracer:
    """A tracer over an index of the texts, in that order."""
    path = kit.scratch(f"late-{name}-{context}-{abs(hash(texts))}")
    path.mkdir()
    corpus = kit.write_corpus(path / "data.jsonl", texts)
    model = kit.checkpoint(name)
    with kit.precisely():
        kit.make_index(path / "index", corpus, model, context=context, **LEAST)
        return Tracer(Index.open(path / "index"), model)


def traced(tracer: Tracer, name: str, rows=None, reference: int = 4096):
    """Score and evidence of the windows that are scored, by text."""
    (method,) = find_methods(name)
    settings = LateSettings(reference=reference)
    rows = range(len(tracer.index)) if rows is None else rows
    tally = Tally(100)
    with kit.precisely():
        _, question = tracer.question(LEAK, Asking())
        scorer = LateScorer(tracer.index, tracer.engine_over("attention"), settings, 512 << 20)
        scorer.trace(method, [LateSearch(question, rows, tally)], 100, Silent())
    texts = [window.text for window in tracer.index.iter_windows()]
    shown = {scored.window.text: scored.evidence for scored in tally.result()}
    scores = {texts[row]: score for row, score in zip(*tally.scores(), strict=True)}
    return scores, shown


usual = cache(traced)
"""The same, once; not for a test that changes how it comes about."""


def alike(ours, right) -> None:
    """Scores and evidence of the same windows."""
    assert ours[0].keys() == right[0].keys()
    most = max(right[0].values())
    assert most > 0
    for text, score in right[0].items():
        assert ours[0][text] == pytest.approx(score, abs=1e-9 * most)
    for text, evidence in right[1].items():
        assert ours[1][text] == pytest.approx(evidence, abs=1e-9 * most)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_neither_padding_nor_company_in_a_batch_changes_a_score(name, method, monkeypatch):
    lengths = {len(window.token_ids) for window in over(name).index.iter_windows()}
    assert len(lengths) > 3  # so that a batch of all is padded
    right = usual(over(name), method)
    for tokens, ahead in ((1, 5), (1 << 20, 256)):  # each window alone, all of them together
        monkeypatch.setitem(batches.BATCH_TOKENS, "cpu", tokens)
        monkeypatch.setattr(batches, "READ_AHEAD", ahead)
        alike(traced(over(name), method), right)


@pytest.mark.parametrize(
    ("method", "reference"), [("haif-r", 4096), ("haif-li", 4096), ("haif-li", 5), ("haif-rli", 5)]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_records_in_the_corpus_changes_nothing(name, method, reference):
    """Also where haif-li compares with a sample: it is drawn by what the records hold."""
    right = usual(over(name), method, reference=reference)
    assert len(right[0]) == len(SENTENCES)
    alike(traced(over(name, SHUFFLED), method, reference=reference), right)


def test_the_order_of_long_records_changes_nothing_either():
    """Each is several windows here, of which the best is shown."""
    right = traced(over("gpt2", context=9), "haif-li", reference=7)
    assert len(right[0]) > len(SENTENCES) == len(right[1])
    alike(traced(over("gpt2", SHUFFLED, context=9), "haif-li", reference=7), right)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_neither_the_order_nor_the_number_of_candidates_changes_a_score(name, method):
    tracer = over(name)
    scores, shown = usual(tracer, method)
    rows = list(range(len(SENTENCES)))
    alike(traced(tracer, method, random.Random(1).sample(rows, len(rows))), (scores, shown))
    for three in ([11, 1, 3], {9, 2, 8}):
        some = traced(tracer, method, three)
        assert {SENTENCES[row] for row in three} <= some[0].keys()
        if method == "haif-r":
            assert len(some[0]) == 3
        kept = ({t: scores[t] for t in some[0]}, {t: shown[t] for t in some[1]})
        alike(some, kept)


@pytest.mark.parametrize("name", NAMES)
def test_haif_li_with_three_candidates_scores_the_reference_and_them_alone(name):
    tracer = over(name)
    scores, _ = usual(tracer, "haif-li", reference=4)
    for three in ([0, 5, 7], [11, 1, 3]):
        some, _ = traced(tracer, "haif-li", three, reference=4)
        compared = {*three, *sample_rows(tracer.index, 4, 0)}
        assert some.keys() == {SENTENCES[row] for row in compared}
        assert len(some) < len(SENTENCES)
        for text, score in some.items():
            assert score == pytest.approx(scores[text], abs=1e-9 * max(scores.values()))


@pytest.mark.parametrize("memory", [1, 512 << 20])
def test_neither_other_questions_nor_chunks_of_directions_change_a_score(memory):
    tracer = over("llama")
    others = [Leak("Pella Vantongeren", " lives"), Leak("Oswin Darrowby studied", " botany")]
    settings = MethodSettings()
    before, tracer._memory = tracer._memory, memory
    with kit.precisely():
        asked = [tracer.question(leak, Asking())[1] for leak in (*others, LEAK)]
        many = tracer.score_many(asked, METHODS, settings, Silent())
    tracer._memory = before
    for method, scores_QN in many.items():
        alone, _ = usual(tracer, method)
        assert scores_QN[2] == pytest.approx(
            np.array([alone[text] for text in SENTENCES]), abs=1e-9 * max(alone.values())
        )


def test_memory_is_given_back_between_large_directions(monkeypatch):
    """Once for each part of the sides, and no score is another."""
    tracer, given = over("gpt2"), []
    right = usual(tracer, "haif-rli")
    monkeypatch.setattr(late, "LARGE_BYTES", 0)
    give_back = late.give_back_memory
    monkeypatch.setattr(late, "give_back_memory", lambda: (given.append(1), give_back()))
    alike(traced(tracer, "haif-rli"), right)
    assert given == [1]


def test_a_sample_is_of_what_the_records_hold():
    first, other = over("gpt2").index, over("gpt2", SHUFFLED).index
    for count, seed in ((5, 0), (5, 1), (1, 0)):
        rows = sample_rows(first, count, seed)
        assert rows == sorted(set(rows))
        assert len(rows) == count
        texts = {SENTENCES[row] for row in rows}
        assert texts == {SHUFFLED[row] for row in sample_rows(other, count, seed)}
    assert sample_rows(first, 5, 0) != sample_rows(first, 5, 1)
    assert sample_rows(first, 12, 0) == sample_rows(first, 99, 7) == list(range(12))
    drawn = [row for seed in range(300) for row in sample_rows(first, 4, seed)]
    counts = np.bincount(drawn, minlength=12)  # 100 each on average, deviation 8
    assert counts.min() > 65
    assert counts.max() < 135


@pytest.mark.parametrize("name", ["haif-r", "haif-rq", "haif-li", "haif-rli"])
@pytest.mark.parametrize("memory", [1, 512 << 20])
def test_a_second_pass_finds_what_one_pass_keeps(name, memory, monkeypatch):
    """Few cosines are kept, so that evidence costs nothing more; of many the best windows' are
    formed again."""
    tracer = over("gpt2")
    (method,) = find_methods(name)
    passes = []
    cosines = LateScorer._cosines

    def counted(scorer, asked, stored, progress):
        passes.append(sum(len(one.rows) for one in asked))
        return cosines(scorer, asked, stored, progress)

    monkeypatch.setattr(LateScorer, "_cosines", counted)

    def results():
        tally = Tally(3)
        with kit.precisely():
            _, question = tracer.question(LEAK, Asking())
            engine = tracer.engine_over("attention")
            scorer = LateScorer(tracer.index, engine, LateSettings(), memory)
            scorer.trace(method, [LateSearch(question, range(12), tally)], 3, Silent())
        rows, scores = tally.scores()
        return rows.tolist(), scores, [scored.evidence for scored in tally.result()]

    one = results()
    assert passes == [12]
    monkeypatch.setattr(late, "KEPT_BYTES", 0)
    two = results()
    assert passes == [12, 12, 3]
    assert one[0] == two[0]
    np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_allclose(np.concatenate(one[2]), np.concatenate(two[2]), rtol=1e-9, atol=0)
