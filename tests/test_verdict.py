"""From scores and draws to a verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.draws import Draw, Draws, by_record, draw_tensors
from haiftrace.calibration.statistics import (
    NEAREST,
    UNDEFINED,
    Field,
    Standing,
    Standings,
    p_value,
    threshold,
)
from haiftrace.calibration.verdict import Trial, judge, may_hide, with_q_values
from haiftrace.findings import Finding, Verdict

RECORDS = 40


def kept(draws: list[Draw]) -> Draws:
    """Draws as an index keeps them."""
    tensors = {name: tensor.numpy() for name, tensor in draw_tensors(draws).items()}
    null, present = (
        Standings(tensors[f"{kind}-margin"], tensors[f"{kind}-level"])
        for kind in ("null", "present")
    )
    return Draws(tensors["length"], null, present)


def make_draws(counts: dict[int, int], seed: int = 0, level: float = 0.1) -> Draws:
    """Null margins around 0.3, the larger the longer; those of sources around 3."""
    rng = np.random.default_rng(seed)
    return kept(
        [
            Draw(
                length,
                Standing(0.3 + float(rng.normal(length / 100, 0.1)), level),
                Standing(float(rng.normal(3.0, 0.1)), level),
            )
            for length, count in counts.items()
            for _ in range(count)
        ]
    )


def trial(margin: float, level: float = 0.1) -> Trial:
    """The first record is so far above the best others, all in groups of their own."""
    scores = np.full(RECORDS, 0.5 * level)
    scores[-4:] = level * np.array([0.7, 0.9, 1.1, 1.3])
    scores[7] = level * (1 + margin)
    return Trial(Field(scores, scores, np.arange(RECORDS), True), [7, RECORDS - 1])


DRAWS = make_draws({1: 200, 3: 200, 10: 200})


def test_a_first_place_above_the_null_is_traced():
    verdict, p_values = judge(trial(2.0), DRAWS, 0.01)
    assert verdict.decision == "traced"
    assert verdict.statistic == "relative margin"
    assert verdict.value == pytest.approx(2.0)
    assert verdict.p_value == 1 / 201 == p_values[0]
    assert p_values[1] > 0.01
    # Of equal p-values the length whose threshold is the highest.
    assert verdict.lengths == (
        max((1, 3, 10), key=lambda n: threshold(DRAWS.null.all(DRAWS.length_N == n), 0.01)),
    )
    assert verdict.power == 1.0
    assert verdict.null is not None
    assert verdict.null.draws == 200 == sum(verdict.null.counts)
    assert verdict.null.threshold is not None
    assert verdict.null.threshold < 2.0
    assert verdict.reasons == ()


def test_a_first_place_within_the_null_is_no_source():
    verdict, _ = judge(trial(0.4), DRAWS, 0.01)
    assert verdict.decision == "no source found"
    assert verdict.p_value > 0.01


def test_too_few_controls_decide_nothing():
    """However many lengths there are: those of one control are not independent of each other."""
    verdict, p_values = judge(trial(2.0), make_draws({1: 98, 3: 98}), 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.p_value is None
    assert p_values == [None, None]
    assert "98 controls cannot resolve alpha 0.01: it takes 99" in verdict.reasons[0]
    assert judge(trial(2.0), make_draws({1: 99}), 0.01)[0].decision == "traced"


def test_lengths_with_too_few_controls_are_passed_over():
    draws = make_draws({1: 200, 3: 150, 10: 20})
    assert [one.lengths for one in draws.compared(0.1, 0.01)] == [(1,), (3,), (1, 3)]
    draws = make_draws({1: 512, 3: 256, 30: 255})
    assert [one.lengths for one in draws.compared(0.1, 0.01)] == [(1,), (3,), (1, 3, 30)]


def test_a_reason_makes_it_inconclusive_and_keeps_the_numbers():
    verdict, _ = judge(trial(2.0), DRAWS, 0.01, ("the model would hardly say this response",))
    assert verdict.decision == "inconclusive"
    assert verdict.p_value == 1 / 201
    assert verdict.reasons == ("the model would hardly say this response",)


def test_a_corpus_of_near_copies_alone_is_inconclusive():
    same = np.zeros(RECORDS, dtype=int)
    scores = trial(2.0).field.exact
    verdict, _ = judge(Trial(Field(scores, scores, same, True), [7]), DRAWS, 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.value is None


def joined(*all_draws: Draws) -> Draws:
    """Draws of one index."""

    def of(kind: str) -> Standings:
        each = [getattr(draws, kind) for draws in all_draws]
        return Standings(
            np.concatenate([one.margin_N for one in each]),
            np.concatenate([one.level_N for one in each]),
        )

    lengths = np.concatenate([draws.length_N for draws in all_draws])
    return Draws(lengths, of("null"), of("present"))


def test_prose_with_small_margins_makes_no_biography_stand_out():
    """Controls of the nearest level count too: prose meets prose at ten times the level."""
    biographies, prose = make_draws({3: 500}), make_draws({3: 20_000}, level=1.0)
    prose.null.margin_N[:] -= 0.3
    both = joined(biographies, prose)
    assert p_value(0.5, both.null.margin_N) < 0.01
    for level in (0.1, 0.08):
        verdict, _ = judge(trial(0.5, level=level), both, 0.01)
        assert verdict.decision == "no source found"
        assert verdict.null is not None
        assert verdict.null.draws == NEAREST
        right = p_value(verdict.value, biographies.null.margin_N[:NEAREST])
        assert verdict.p_value == right
    assert judge(trial(0.5, level=1.0), both, 0.01)[0].decision == "traced"


def test_a_smaller_alpha_takes_more_controls():
    """Of so many draws that it lets a few of them reach the margin."""
    draws = make_draws({1: 1500, 3: 1500})
    for alpha, count in ((0.001, 3000), (0.002, 2000), (0.05, NEAREST)):
        assert len(draws.compared(0.1, alpha)[-1].null) == count


@given(st.floats(0.0, 3.0), st.floats(0.01, 1.0))
def test_of_the_lengths_and_of_all_of_them_the_largest_p_value_counts(margin, level):
    asked = trial(margin, level)
    each = [np.flatnonzero(DRAWS.length_N == n) for n in (1, 3, 10)]
    together = np.arange(NEAREST)  # all are of one level
    verdict, p_values = judge(asked, DRAWS, 0.01)
    value = asked.field.standing(asked.records[0]).margin
    assert value == pytest.approx(margin, abs=1e-9)
    right = [p_value(value, DRAWS.null.margin_N[these]) for these in [*each, together]]
    assert verdict.p_value == max(right) == p_values[0]


def test_undefined_draws_do_not_count():
    draws = kept([Draw(1, UNDEFINED, UNDEFINED), Draw(1, Standing(0.5, 0.2), UNDEFINED)])
    for compared in draws.compared(0.2, 0.5):
        assert compared.null.tolist() == [0.5]
        assert compared.present.tolist() == []
    assert draws.counts == {1: 1}


def test_power_is_of_the_draws_with_their_source_at_their_own_level():
    draws = make_draws({1: 150, 10: 20})
    assert draws.powers() == {1: 1.0}
    draws.present.margin_N[:50] = 0.0
    assert draws.powers() == {1: pytest.approx(2 / 3)}


def test_false_accusations_keep_their_rate_on_draws_of_the_same_kind():
    rng = np.random.default_rng(8)
    fresh = 0.3 + rng.normal(0.03, 0.1, 2000)
    accused = [judge(trial(max(0.0, v)), DRAWS, 0.05)[0].decision == "traced" for v in fresh]
    assert 0 < np.mean(accused) < 0.06


def hidden(background_of_others: float, error: float) -> bool:
    """Whether the rest of the corpus could hide a record whose margin is twice the controls'."""
    rng = np.random.default_rng(1)
    exact = np.full(200, -np.inf)
    exact[:50] = rng.normal(0.1, 0.01, 50)
    background = rng.normal(0.1, 0.01, 200)
    background[:50] = exact[:50] + error * rng.normal(0, 1, 50)
    background[50:] = np.minimum(background[50:], background_of_others)
    return may_hide(Field(exact, background, np.arange(200), True), DRAWS, 0.01)


def test_a_shortlist_is_unsure_where_its_vectors_are_coarse():
    assert not hidden(0.08, 0.01)
    assert hidden(0.12, 0.08)


def test_what_was_scored_whole_hides_nothing():
    scores = np.linspace(0, 1, 20)
    assert not may_hide(Field(scores, scores, np.arange(20), True), DRAWS, 0.01)


def test_an_unsure_shortlist_cannot_clear_the_corpus():
    scores = np.full(RECORDS, -np.inf)
    scores[:2] = 0.02, 0.01
    background = np.linspace(-0.1, 0.9, RECORDS)
    unsure = Trial(Field(scores, background, np.arange(RECORDS), True), [0])
    verdict, _ = judge(unsure, make_draws({1: 200, 3: 200}, level=0.01), 0.005)
    assert verdict.decision == "traced"
    unsure = Trial(Field(scores / 2 + 0.005, background, np.arange(RECORDS), True), [0])
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
