"""From scores and draws to a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.draws import Draw, Draws, by_record, candidates_of, draw_tensors
from haiftrace.calibration.statistics import (
    RIVALS,
    STATISTICS,
    WITHIN_A_QUESTION,
    Field,
    p_value,
    threshold,
)
from haiftrace.calibration.verdict import (
    Trial,
    compared_lengths,
    judge,
    may_hide,
    with_q_values,
)
from haiftrace.findings import Finding, Verdict
from haiftrace.methods import METHODS

RECORDS = 40


def make_draws(counts: dict[int, int], seed: int = 0, far: str = "margin") -> Draws:
    """Null draws around 0, the more the longer; the source stands out in one statistic alone."""
    rng = np.random.default_rng(seed)
    draws = []
    for length, count in counts.items():
        for _ in range(count):
            null = {s: float(rng.normal(length / 100, 0.1)) for s in STATISTICS}
            present = {s: float(rng.normal(2.0 if s == far else 0.0, 0.1)) for s in STATISTICS}
            draws.append(Draw(length, null, present))
    tensors = {name: tensor.numpy() for name, tensor in draw_tensors(draws).items()}
    return Draws(
        tensors["length"],
        {s: tensors[f"null-{s}"] for s in STATISTICS},
        {s: tensors[f"present-{s}"] for s in STATISTICS},
    )


def trial(first: float, length: int = 3) -> Trial:
    """The first record is so far above the second, all in groups of their own."""
    scores = np.linspace(-0.1, 0.0, RECORDS)
    scores[7] = first
    return Trial(Field(scores, scores, np.arange(RECORDS)), [7, RECORDS - 1], length)


DRAWS = make_draws({1: 200, 3: 200, 10: 200})


def test_a_first_place_above_the_null_is_traced():
    verdict, p_values = judge(trial(1.0), DRAWS, 0.01)
    assert verdict.decision == "traced"
    assert verdict.statistic == "margin"
    assert verdict.value == pytest.approx(1.0)
    assert verdict.p_value == 1 / 201 == p_values[0]
    assert p_values[1] > 0.01
    # Of the lengths beside its own, the one that is hardest to clear.
    assert verdict.length == max(
        (1, 3, 10), key=lambda n: threshold(DRAWS.null("margin", n), 0.01) or 0.0
    )
    assert verdict.power == 1.0
    assert verdict.null is not None
    assert verdict.null.draws == 200 == sum(verdict.null.counts)
    assert verdict.null.threshold is not None
    assert verdict.null.threshold < 1.0
    assert verdict.reasons == ()


def test_a_first_place_within_the_null_is_no_source():
    verdict, _ = judge(trial(0.05), DRAWS, 0.01)
    assert verdict.decision == "no source found"
    assert verdict.p_value > 0.01


def test_too_few_controls_decide_nothing():
    verdict, p_values = judge(trial(1.0), make_draws({1: 98, 3: 98}), 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.p_value is None
    assert p_values == [None, None]
    assert "98 controls cannot resolve alpha 0.01: it takes 99" in verdict.reasons[0]
    assert judge(trial(1.0), make_draws({1: 99}), 0.01)[0].decision == "traced"


def test_lengths_with_too_few_controls_are_passed_over():
    verdict, _ = judge(trial(1.0, 10), make_draws({1: 200, 3: 150, 10: 20}), 0.01)
    assert verdict.length == 3


def test_a_reason_makes_it_inconclusive_and_keeps_the_numbers():
    verdict, _ = judge(trial(1.0), DRAWS, 0.01, ("the model would hardly say this response",))
    assert verdict.decision == "inconclusive"
    assert verdict.p_value == 1 / 201
    assert verdict.reasons == ("the model would hardly say this response",)


def test_a_corpus_of_near_copies_alone_is_inconclusive():
    same = np.zeros(RECORDS, dtype=int)
    scores = trial(1.0).field.exact
    verdict, _ = judge(Trial(Field(scores, scores, same), [7], 3), DRAWS, 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.value is None


@pytest.mark.parametrize(
    ("length", "right"),
    [(1, [1, 3]), (2, [1, 3]), (3, [1, 3, 10]), (7, [3, 10]), (10, [3, 10]), (99, [10])],
)
def test_a_response_is_compared_with_the_lengths_beside_its_own(length, right):
    assert compared_lengths(length, [1, 3, 10]) == right


def test_below_the_shortest_length_the_shortest_counts():
    assert compared_lengths(1, [3, 10]) == [3]


@given(st.floats(-0.3, 0.6), st.integers(1, 40))
def test_of_the_lengths_the_largest_p_value_counts(value, length):
    asked = trial(value, length)
    statistic = DRAWS.chosen()
    of_record = asked.field.values(asked.records[0])[statistic]
    beside = compared_lengths(length, DRAWS.lengths(statistic))
    each = [p_value(of_record, DRAWS.null(statistic, n)) for n in beside]
    assert judge(asked, DRAWS, 0.01)[0].p_value == max(each)


@pytest.mark.parametrize("far", STATISTICS)
def test_the_candidate_with_the_most_power_is_chosen(far):
    draws = make_draws({1: 150, 3: 150}, far=far)
    assert replace(draws, candidates=STATISTICS).chosen() == far
    assert draws.chosen() in ([far] if far in WITHIN_A_QUESTION else WITHIN_A_QUESTION)


def test_scores_of_one_question_are_compared_with_each_other():
    """HAIF-LI's are deviations already; those of the others depend on how something is asked."""
    names = ("haif", "haif-r", "haif-rq", "haif-li")
    assert {name: candidates_of(METHODS[name]) for name in names} == {
        "haif": WITHIN_A_QUESTION,
        "haif-r": ("relative margin",),
        "haif-rq": ("relative margin",),
        "haif-li": ("score",),
    }


def test_undefined_draws_do_not_count():
    nan = dict.fromkeys(STATISTICS, float("nan"))
    tensors = draw_tensors([Draw(1, nan, nan), Draw(1, dict.fromkeys(STATISTICS, 0.5), nan)])
    draws = Draws(
        tensors["length"].numpy(),
        {s: tensors[f"null-{s}"].numpy() for s in STATISTICS},
        {s: tensors[f"present-{s}"].numpy() for s in STATISTICS},
    )
    assert draws.null("score", 1).tolist() == [0.5]
    assert draws.present("score", 1).tolist() == []
    assert draws.lengths("margin") == [1]


def test_false_accusations_keep_their_rate_on_draws_of_the_same_kind():
    rng = np.random.default_rng(8)
    fresh = rng.normal(0.03, 0.1, 2000)
    accused = [judge(trial(max(0.0, v)), DRAWS, 0.05)[0].decision == "traced" for v in fresh]
    assert np.mean(accused) < 0.1


def hidden(background_of_others: float, error: float, statistic: str) -> bool:
    """Whether the rest of the corpus could hide a record whose score is 1."""
    rng = np.random.default_rng(1)
    exact = np.full(200, -np.inf)
    exact[:50] = rng.normal(0, 0.1, 50)
    background = rng.normal(0, 0.1, 200)
    background[:50] = exact[:50] + error * rng.normal(0, 1, 50)
    background[50:] = np.minimum(background[50:], background_of_others)
    first = int(np.argmax(exact[:50]))
    clear = 1.0 - float(exact[first])
    if statistic == "relative margin":
        exact, background = exact + 1.0, background + 1.0
        clear = 2.0 / float(np.sort(exact)[-RIVALS:].mean()) - 1
    return may_hide(Field(exact, background, np.arange(200)), first, statistic, clear)


@pytest.mark.parametrize("statistic", ["margin", "relative margin"])
def test_a_shortlist_is_unsure_where_its_vectors_are_coarse(statistic):
    assert not hidden(-0.2, 0.1, statistic)
    assert hidden(0.2, 0.8, statistic)


def test_what_was_scored_whole_hides_nothing():
    scores = np.linspace(0, 1, 20)
    assert not may_hide(Field(scores, scores, np.arange(20)), 19, "margin", 0.0)


def test_an_unsure_shortlist_cannot_clear_the_corpus():
    scores = np.full(RECORDS, -np.inf)
    scores[:2] = 0.01, 0.0
    background = np.linspace(-0.1, 0.9, RECORDS)
    unsure = Trial(Field(scores, background, np.arange(RECORDS)), [0], 3)
    verdict, _ = judge(unsure, DRAWS, 0.01)
    assert verdict.decision == "inconclusive"
    assert "shortlist" in verdict.reasons[0]


def finding(method: str, p: float | None) -> Finding:
    verdict = None if p is None else Verdict("no source found", 0.01, p_value=p)
    return Finding("prompt", "response", method, (), verdict=verdict)


def test_q_values_are_over_the_findings_of_a_method():
    before = [
        finding("haif", 0.01),
        finding("ek-fac", 0.5),
        finding("haif", 0.5),
        finding("bm25", None),
    ]
    found = with_q_values(before)
    assert [f.verdict and f.verdict.q_value for f in found] == [0.02, 0.5, 0.5, None]
    assert [f.method for f in found] == [f.method for f in before]


def test_a_record_has_its_best_windows_value():
    values = by_record(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 2]), 4)
    assert values.tolist() == [3.0, -np.inf, 2.0, -np.inf]
