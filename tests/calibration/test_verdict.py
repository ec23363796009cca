"""From scores and control samples to a verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.calibration.null_distribution import ControlSample, ControlSamples, sample_tensors
from haiftrace.calibration.p_values import (
    NEAREST,
    UNDEFINED,
    Margin,
    Margins,
    RecordScores,
    p_value,
    threshold,
)
from haiftrace.calibration.verdict import verdict_on, with_q_values
from haiftrace.findings import Finding, Verdict
from haiftrace.scoring.family import QueryScores

RECORDS = 40


def kept(samples: list[ControlSample]) -> ControlSamples:
    """Samples as an index keeps them."""
    tensors = {name: tensor.numpy() for name, tensor in sample_tensors(samples).items()}
    null, present = (
        Margins(tensors[f"{kind}-margin"], tensors[f"{kind}-level"]) for kind in ("null", "present")
    )
    return ControlSamples(tensors["length"], null, present)


def make_samples(
    counts: dict[int, int], seed: int = 0, level: float = 0.1, margin: float = 0.3
) -> ControlSamples:
    """Null margins around 0.3, the larger the longer; those of sources around 3."""
    rng = np.random.default_rng(seed)
    return kept(
        [
            ControlSample(
                length,
                Margin(margin + float(rng.normal(length / 100, 0.1)), level),
                Margin(float(rng.normal(3.0, 0.1)), level),
            )
            for length, count in counts.items()
            for _ in range(count)
        ]
    )


def joined(*several: ControlSamples) -> ControlSamples:
    """Samples of one index."""

    def of(kind: str) -> Margins:
        margins = [getattr(samples, kind) for samples in several]
        return Margins(
            np.concatenate([margin.value_N for margin in margins]),
            np.concatenate([margin.level_N for margin in margins]),
        )

    lengths = np.concatenate([samples.length_N for samples in several])
    return ControlSamples(lengths, of("null"), of("present"))


def trial(
    margin: float, level: float = 0.1, tokens: int = 3
) -> tuple[RecordScores, list[int], int]:
    """The first record is so far above the best others, all in groups of their own."""
    scores = np.full(RECORDS, 0.5 * level)
    scores[-4:] = level * np.array([0.7, 0.9, 1.1, 1.3])
    scores[7] = level * (1 + margin)
    return RecordScores(scores, np.arange(RECORDS), True), [7, RECORDS - 1], tokens


SAMPLES = make_samples({1: 200, 3: 200, 10: 200})


def test_a_first_place_above_the_null_is_traced():
    verdict, p_values = verdict_on(*trial(2.0), SAMPLES, 0.01)
    assert verdict.decision == "traced"
    assert verdict.statistic == "relative margin"
    assert verdict.value == pytest.approx(2.0)
    # The nearest lengths have fewer samples than all of this level.
    assert verdict.p_value == 1 / 401 == p_values[0]
    assert verdict.lengths == (1, 3)
    assert p_values[1] > 0.01
    assert verdict.power == 1.0
    assert verdict.null is not None
    assert verdict.null.samples == 400 == sum(verdict.null.counts)
    assert verdict.null.threshold == threshold(SAMPLES.null.value_N[SAMPLES.length_N < 10], 0.01)
    assert verdict.reasons == ()


def test_a_first_place_within_the_null_is_no_source():
    verdict, _ = verdict_on(*trial(0.4), SAMPLES, 0.01)
    assert verdict.decision == "no source found"
    assert verdict.p_value > 0.01


def test_too_few_controls_decide_nothing():
    """However they share out over lengths: they are compared with together."""
    verdict, p_values = verdict_on(*trial(2.0), make_samples({1: 50, 3: 48}), 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.p_value is None
    assert p_values == [None, None]
    assert "98 controls cannot resolve alpha 0.01: it takes 99" in verdict.reasons[0]
    assert verdict_on(*trial(2.0), make_samples({1: 50, 3: 49}), 0.01)[0].decision == "traced"


@pytest.mark.parametrize(
    ("tokens", "lengths"), [(1, (1, 2)), (2, (1, 2)), (4, (2, 8)), (7, (2, 8)), (60, (2, 8))]
)
def test_the_nearest_lengths_are_those_of_the_nearest_ratios(tokens, lengths):
    """Whole lengths, until there are enough: of one length none is nearer than another."""
    samples = make_samples({1: 200, 2: 200, 8: 200})
    by_length, by_level = samples.compared(0.1, tokens, 0.01)
    assert by_length.lengths == lengths
    assert len(by_length.null) == len(by_length.present) == 400
    assert by_level.lengths == (1, 2, 8)  # all at one level


def test_a_length_with_enough_controls_is_alone():
    samples = make_samples({1: 512, 3: NEAREST, 12: 200})
    found = {n: samples.compared(0.1, n, 0.01)[0].lengths for n in (1, 3, 12)}
    assert found == {1: (1,), 3: (3,), 12: (3, 12)}


def test_a_reason_makes_it_inconclusive_and_keeps_the_numbers():
    verdict, _ = verdict_on(
        *trial(2.0), SAMPLES, 0.01, ("the model would hardly say this response",)
    )
    assert verdict.decision == "inconclusive"
    assert verdict.p_value == 1 / 401
    assert verdict.reasons == ("the model would hardly say this response",)


def test_a_corpus_of_near_copies_alone_is_inconclusive():
    same = np.zeros(RECORDS, dtype=int)
    scores = trial(2.0)[0].scores_R
    verdict, _ = verdict_on(RecordScores(scores, same, True), [7], 3, SAMPLES, 0.01)
    assert verdict.decision == "inconclusive"
    assert verdict.value is None


def test_a_margin_has_to_stand_out_at_its_length_and_at_its_level():
    """Long spans are wider apart here, and meet each other at another level."""
    short, long = make_samples({1: 500}), make_samples({12: 500}, level=1.0, margin=1.0)
    both = joined(short, long)
    decisions = {
        (tokens, level): verdict_on(*trial(0.8, level, tokens), both, 0.01)[0].decision
        for tokens in (1, 12)
        for level in (0.1, 1.0)
    }
    assert decisions == {
        (1, 0.1): "traced",
        (1, 1.0): "no source found",
        (12, 0.1): "no source found",
        (12, 1.0): "no source found",
    }
    for level in (0.1, 1.0):
        verdict, _ = verdict_on(*trial(0.8, level, 12), both, 0.01)
        assert verdict.p_value == p_value(verdict.value, long.null.value_N)
        assert verdict.lengths == (12,)


def test_prose_with_small_margins_makes_no_biography_stand_out():
    """Prose meets prose at ten times the level; of one length there is mostly prose."""
    biographies, prose = make_samples({3: 500}), make_samples({3: 20_000}, level=1.0, margin=0.0)
    both = joined(biographies, prose)
    assert p_value(0.5, both.null.value_N) < 0.01
    for level in (0.1, 0.08):
        verdict, _ = verdict_on(*trial(0.5, level=level), both, 0.01)
        assert verdict.decision == "no source found"
        assert verdict.null is not None
        assert verdict.null.samples == 500
        assert verdict.p_value == p_value(verdict.value, biographies.null.value_N)
    assert verdict_on(*trial(0.5, level=1.0), both, 0.01)[0].decision == "traced"


def test_a_smaller_alpha_takes_more_controls():
    """Of so many samples that it lets a few of them reach the margin."""
    samples = make_samples({1: 1500, 3: 1500})
    for kind in (samples.null, samples.present):
        kind.level_N[:] = np.linspace(0.1, 0.2, 3000)
    for alpha, count in ((0.0005, 3000), (0.001, 2000), (0.05, NEAREST)):
        _, by_level = samples.compared(0.1, 3, alpha)
        assert by_level.null.tolist() == samples.null.value_N[:count].tolist()
        assert by_level.present.tolist() == samples.present.value_N[:count].tolist()


def nearest(distances: list[float]) -> list[int]:
    """Places of the nearest ones, and of those as near as the last of them."""
    farthest = sorted(distances)[:NEAREST][-1]
    return [place for place, distance in enumerate(distances) if distance <= farthest]


@given(st.floats(0.0, 3.0), st.floats(0.05, 0.5), st.integers(1, 30))
def test_of_nearest_lengths_and_nearest_levels_the_largest_p_value_counts(margin, level, tokens):
    samples = joined(
        make_samples({1: 200, 3: 200}), make_samples({10: 300}, level=0.3, margin=0.8, seed=1)
    )
    samples.null.level_N[:] *= np.linspace(0.9, 1.1, 700)
    scores, ranked, _ = trial(margin, level, tokens)
    verdict, p_values = verdict_on(scores, ranked, tokens, samples, 0.01)
    standing = scores.margin(ranked[0])
    assert standing.value == pytest.approx(margin, abs=1e-9)
    by_length = nearest([abs(math.log(n / tokens)) for n in samples.length_N.tolist()])
    by_level = nearest([abs(math.log(x / standing.level)) for x in samples.null.level_N.tolist()])
    right = [p_value(standing.value, samples.null.value_N[some]) for some in (by_length, by_level)]
    assert verdict.p_value == max(right) == p_values[0]


def test_undefined_samples_do_not_count():
    samples = kept(
        [ControlSample(1, UNDEFINED, UNDEFINED), ControlSample(1, Margin(0.5, 0.2), UNDEFINED)]
    )
    for compared in samples.compared(0.2, 3, 0.5):
        assert compared.null.tolist() == [0.5]
        assert compared.present.tolist() == []
    assert samples.count == 1


def test_power_is_of_the_draws_with_their_source_by_length():
    samples = make_samples({1: 150, 10: 20})
    assert samples.powers() == {1: 1.0, 10: 1.0}
    samples.present.value_N[:50] = 0.0
    assert samples.powers() == {1: pytest.approx(2 / 3), 10: 1.0}
    assert make_samples({1: 98}).powers() == {}


def test_power_is_at_the_length_and_level_of_each_draw():
    """Where null samples stand as far out as sources do, none of these is told apart."""
    both = joined(make_samples({1: 500}), make_samples({12: 500}, level=1.0, margin=3.0))
    assert both.powers() == {1: 1.0, 12: pytest.approx(0.0, abs=0.05)}
    assert verdict_on(*trial(3.0, 0.1, 1), both, 0.01)[0].power == 1.0
    assert verdict_on(*trial(3.0, 1.0, 12), both, 0.01)[0].power < 0.05


def test_false_accusations_keep_their_rate_on_draws_of_the_same_kind():
    rng = np.random.default_rng(8)
    fresh = 0.3 + rng.normal(0.03, 0.1, 2000)
    accused = [
        verdict_on(*trial(max(0.0, v)), SAMPLES, 0.05)[0].decision == "traced" for v in fresh
    ]
    assert 0 < np.mean(accused) < 0.06


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


def test_a_record_has_its_best_windows_score():
    scores = QueryScores(np.array([0, 1, 4]), np.array([1.0, 3.0, 2.0]), 0.5)
    by_record = scores.by_record(np.array([0, 0, 1, 1, 2]), 4)
    assert by_record.tolist() == [1.5, -np.inf, 1.0, -np.inf]
