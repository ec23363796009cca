"""Draws of an index's controls: those of single traces, in any blocks, and from a shortlist."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from haiftrace import control_draws
from haiftrace.calibrate import CalibrationSettings, calibrated_with
from haiftrace.calibration.controls import Control, draw_controls
from haiftrace.calibration.draws import GROUPS, Draw, read_draws, read_groups
from haiftrace.calibration.statistics import RIVALS, Field, Standing, Standings
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.query import Asking
from haiftrace.store import Index, SupplementWriter
from haiftrace.trace import Leak
from tests import kit
from tests.calibration_kit import (
    MANY,
    calibrated_index,  # noqa: F401 (the fixture calibrated)
    opened,
    run,
)


def draws_of(path: Path):
    with Index.open(path) as index:
        draws = read_draws(index, "haif")
    return draws.length_N, draws.null, draws.present


def scores_of(draws: Standings) -> np.ndarray:
    """[N] the scores that stand so far out."""
    return draws.level_N + draws.margin_N


def assert_same_draws(one: Path, other: Path, tolerance: float = 0.0) -> None:
    (lengths, *ours), (others, *theirs) = draws_of(one), draws_of(other)
    assert lengths.tolist() == others.tolist()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.level_N, b.level_N, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.margin_N, b.margin_N, rtol=tolerance, atol=tolerance)


def test_draws_are_those_of_single_traces(calibrated):
    """Each control traced by itself, its source and what it would give away left out by hand."""
    with Index.open(calibrated) as index:
        groups = read_groups(index)
        controls = draw_controls(index, MANY.controls, MANY.seed)
        windows = list(index.iter_windows())
    tracer = opened(calibrated)
    lengths, null, present = draws_of(calibrated)
    assert groups is not None
    assert lengths.tolist() == [control.length for control in controls]
    compared = 0
    for number, control in enumerate(controls):
        window, count = windows[control.row], len(control.token_ids)
        text = window.text
        at = next(
            at
            for at in range(len(window.token_ids))
            if tuple(window.token_ids[at : at + count]) == control.token_ids
        )
        offsets = window.offsets[at : at + count]
        begin, end = offsets[-control.length][0], offsets[-1][1]
        leak = Leak(text[offsets[0][0] : begin], text[begin:end])
        asked, _ = tracer.question(leak, Asking())
        if asked.token_ids != list(control.token_ids) or sum(asked.labels) != control.length:
            continue  # as text it would be other tokens: a seam within a word
        compared += 1
        finding = kit.traced(tracer, leak, exact=True)
        cosines = {record.id: record.cosine for record in finding.records}
        own = f"r{control.record}"
        source_group = {f"r{i}" for i in np.flatnonzero(groups == groups[control.record])}
        holding = {f"r{i}" for i in control.containing}
        others = {k: v for k, v in cosines.items() if k not in source_group | holding}
        first = max(others, key=lambda k: others[k])
        for record, draw in ((first, null), (own, present)):
            mates = {f"r{i}" for i in np.flatnonzero(groups == groups[int(record[1:])])}
            best: dict[int, float] = {}
            for k, v in others.items():
                if k not in mates:
                    group = int(groups[int(k[1:])])
                    best[group] = max(v, best.get(group, v))
            level = np.mean(sorted(best.values())[-RIVALS:])
            assert draw.level_N[number] == pytest.approx(level, abs=1e-6)
            assert draw.margin_N[number] == pytest.approx(cosines[record] - level, abs=1e-6)
    assert compared > 10


def test_a_near_copy_that_holds_the_span_is_the_source():
    """r0 to r2 are near copies, the span of a control on r0 stands in r0, r2 and r3."""
    scores = np.array([0.9, 0.8, 0.5, 0.4, 0.3, 0.1, 0.2])
    field = Field(scores, scores, np.array([0, 0, 0, 1, 2, 3, 4]), True)

    def drawn(containing: list[int]) -> Draw:
        control = Control(0, 0, 0, (5, 6, 7), 1, np.array(containing))
        left_out = np.array([True, True, True, False, False, False, False])
        left_out[containing] = True
        return control_draws._draw(field, control, left_out)

    held, rest = drawn([0, 2, 3]), pytest.approx(np.mean([0.3, 0.1, 0.2]))
    assert held.present == Standing(pytest.approx(0.5 / 0.2 - 1), rest)
    assert held.null == Standing(pytest.approx(0.3 / 0.15 - 1), pytest.approx(0.15))
    alone = drawn([0, 3])
    assert alone.present == Standing(pytest.approx(0.9 / 0.2 - 1), rest)
    assert alone.null == held.null


def test_the_same_seed_gives_the_same_and_another_another(calibrated, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        shutil.copytree(kit.index_path(), tmp_path / name)
        run(tmp_path / name, CalibrationSettings(48, seed))
    assert_same_draws(calibrated, tmp_path / "same")
    with pytest.raises(AssertionError):
        assert_same_draws(calibrated, tmp_path / "other")


def test_an_interrupted_calibration_goes_on(calibrated, tmp_path, monkeypatch):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    monkeypatch.setattr(control_draws, "CONTROLS_A_BLOCK", 10)
    add, added = SupplementWriter.add_tensors, []

    def interrupted(writer, name, tensors, about):
        if name != GROUPS and len(added) == 2:
            raise KeyboardInterrupt
        add(writer, name, tensors, about)
        added.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(SupplementWriter, "add_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert added == [GROUPS, "calibration-haif"]
    with Index.open(path) as index:
        assert calibrated_with(index, DEFAULT_METHOD) is None
    asked = []
    question = control_draws.ControlDraws._question

    def counted(calibrator, control):
        asked.append(control.number)
        return question(calibrator, control)

    monkeypatch.setattr(control_draws.ControlDraws, "_question", counted)
    monkeypatch.setattr(control_draws, "CONTROLS_A_BLOCK", 7)  # of another size than before
    run(path)
    assert min(asked) == 10
    assert_same_draws(calibrated, path, 1e-9)
    asked.clear()
    run(path)
    assert asked == []


def test_a_large_index_scores_only_what_the_vectors_propose(calibrated, tmp_path, monkeypatch):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(projection_dim=4096), path)
    monkeypatch.setattr(control_draws, "SCORED_WHOLE", 0)
    run(path)
    whole_lengths, whole_null, whole_present = draws_of(calibrated)
    lengths, null, present = draws_of(path)
    assert lengths.tolist() == whole_lengths.tolist()
    # The best of few is never above the best of all.
    assert (scores_of(null) <= scores_of(whole_null) + 1e-9).all()
    np.testing.assert_allclose(scores_of(present), scores_of(whole_present), atol=1e-9)
    same = np.isclose(scores_of(null), scores_of(whole_null), rtol=1e-9)
    assert same.mean() > 0.7
    # Nor are the others that it is compared with.
    assert (null.level_N[same] <= whole_null.level_N[same] + 1e-9).all()


def test_there_are_enough_groups_to_compare_with():
    """The first windows of a large index are of one group, as a long document's are."""
    drawing = object.__new__(control_draws.ControlDraws)
    drawing._groups = np.array([0, 1, 2, 3, 4, 5, 6])
    drawing._record_N = np.array([0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6])
    control = Control(0, 0, 0, (5, 6, 7), 1, np.array([0]))
    left_out = np.array([True, False, False, False, False, False, False])
    projected = np.linspace(1.0, 0.0, 11)
    rows = drawing._proposed(control, projected, left_out)
    assert rows == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
