"""Calibration by the index's vectors alone, as large models are calibrated, and its verdicts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from haiftrace.calibrate import CalibrationSettings, calibrate
from haiftrace.calibration.controls import draw_controls
from haiftrace.calibration.court import told_as_estimated
from haiftrace.calibration.draws import calibration_name, read_draws, read_groups
from haiftrace.calibration.statistics import Field
from haiftrace.calibration.work import EXACT_WORK, Scoring
from haiftrace.findings import Verdict
from haiftrace.methods import METHODS
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring.directions import Question
from haiftrace.store import Index
from haiftrace.trace import Leak, Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT

MANY = CalibrationSettings(64)
SOME = 0.05


@pytest.fixture
def exact_is_too_much(monkeypatch):
    monkeypatch.setitem(EXACT_WORK, "cpu", 0.0)


def run(path: Path, method: str) -> None:
    with kit.precisely():
        calibrate(path, kit.checkpoint(), method, MethodSettings(), MANY, Silent())


def calibrated(tmp_path: Path, method: str) -> Path:
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(token_vectors=512, projection_dim=512), path)
    run(path, method)
    return path


@pytest.mark.parametrize("method", ["haif", "haif-r", "haif-li"])
def test_draws_are_of_the_vectors_estimates(method, tmp_path, exact_is_too_much, monkeypatch):
    def never(*told, **more):
        raise AssertionError("scored exactly")

    monkeypatch.setattr(Tracer, "score_many", never)
    path = calibrated(tmp_path, method)
    with Index.open(path) as index, kit.precisely():
        entry = index.supplement(calibration_name(method))
        assert entry is not None
        assert entry.settings["estimated"] is True
        draws, groups = read_draws(index, method), read_groups(index)
        controls = draw_controls(index, MANY.controls, MANY.seed)
        tracer = Tracer(index, kit.checkpoint())
        assert draws.length_N.tolist() == [control.length for control in controls]
        for number in range(0, len(controls), 17):
            control = controls[number]
            batch = calibrating_batch(control)
            question = Question(batch, tracer.engine)
            # A record is one window here.
            estimates = tracer.candidates.background(question, METHODS[method], MethodSettings())
            left_out = groups == groups[control.record]
            left_out[control.containing] = True
            field = Field(estimates, estimates, groups, method != "haif")
            right = field.standing(field.first(left_out), left_out)
            assert draws.null.level_N[number] == pytest.approx(right.level, abs=1e-5, nan_ok=True)
            assert draws.null.margin_N[number] == pytest.approx(
                right.margin, rel=1e-4, abs=1e-5, nan_ok=True
            )


def calibrating_batch(control):
    from haiftrace.engine import make_batch

    before = len(control.token_ids) - control.length
    return make_batch([list(control.token_ids)], [[False] * before + [True] * control.length])


@pytest.mark.parametrize("method", ["haif", "haif-r"])
def test_a_verdict_compares_estimates_with_them(method, tmp_path, exact_is_too_much):
    path = calibrated(tmp_path, method)
    with kit.precisely():
        tracer = Tracer(Index.open(path), kit.checkpoint())
        finding = kit.traced(tracer, Leak(PROMPT, ANSWER), method=method, alpha=SOME)
        _, question = tracer.question(Leak(PROMPT, ANSWER), Asking())
        estimates = tracer.candidates.background(question, METHODS[method], MethodSettings())
    verdict = finding.verdict
    assert verdict is not None
    assert verdict.decision == "traced"
    assert finding.records[0].id == "r1"
    field = Field(estimates, estimates, read_groups(tracer.index), method != "haif")
    assert verdict.statistic == f"estimated {field.statistic}"
    assert verdict.value == pytest.approx(field.standing(1).margin, rel=1e-4)
    # The shown scores stay the exact ones.
    exact = kit.traced(kit.tracer(), Leak(PROMPT, ANSWER), method=method, exact=True)
    assert finding.records[0].score == pytest.approx(exact.records[0].score, rel=1e-6)


def test_what_is_finished_is_kept_whatever_it_took(tmp_path, monkeypatch):
    """A calibration by exact scores stays, where now estimates would be chosen."""
    path = calibrated(tmp_path, "haif-r")
    with Index.open(path) as index:
        before = index.supplement(calibration_name("haif-r"))
        assert before is not None
        assert before.settings["estimated"] is False
    monkeypatch.setitem(EXACT_WORK, "cpu", 0.0)
    run(path, "haif-r")
    with Index.open(path) as index:
        assert index.supplement(calibration_name("haif-r")) == before


def test_a_method_without_vectors_is_scored_exactly(tmp_path, exact_is_too_much):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(token_vectors=0), path)
    run(path, "haif-r")
    with Index.open(path) as index:
        entry = index.supplement(calibration_name("haif-r"))
        assert entry is not None
        assert entry.settings["estimated"] is False


@pytest.mark.parametrize(
    ("p_values", "decision"),
    [
        ([0.005, 0.8], "traced"),
        ([0.8, 0.005], "inconclusive"),
        ([0.8, 0.9], "no source found"),
        ([0.8, None], "no source found"),
    ],
)
def test_vectors_that_prefer_another_record_decide_nothing(p_values, decision):
    before = "traced" if p_values[0] <= 0.01 else "no source found"
    verdict = told_as_estimated(Verdict(before, 0.01, "margin", p_value=p_values[0]), p_values)
    assert verdict.decision == decision
    assert verdict.statistic == "estimated margin"
    assert bool(verdict.reasons) == (decision == "inconclusive")


def test_tiny_models_are_calibrated_exactly_and_real_ones_are_not():
    """2,048 directions over some hundred records; by tokens as late interaction asks."""
    tiny = Scoring(2048, 400, 100.0, 250_000, 32_768)
    real = Scoring(2048, 180, 80.0, 134_515_008, 26_542_080)
    assert tiny.by_tokens() < EXACT_WORK["cpu"] < real.by_tokens() < EXACT_WORK["cuda"] * 10
    tiny = Scoring(2048, 400, 100.0, 250_000, 98_304)
    real = Scoring(2048, 180, 80.0, 134_515_008, 106_168_320)
    assert tiny.by_sums() < EXACT_WORK["cpu"] < real.by_sums()


def test_work_grows_with_each_of_its_causes():
    small = Scoring(10, 20, 30.0, 4000, 500)
    for name in ("directions", "windows", "length", "parameters", "counted"):
        told = {key: getattr(small, key) for key in small.__dataclass_fields__}
        more = Scoring(**{**told, name: 3 * told[name]})
        assert more.by_tokens() >= small.by_tokens()
        assert more.by_sums() >= small.by_sums()
    assert small.by_tokens() == pytest.approx(
        min(4 * 4000 * 10 * 20 * 30, 2 * 500 * 10 * 20 * 30 + 2 * 4000 * 30 * 20 * 30)
    )
    assert np.isfinite(small.by_sums())
