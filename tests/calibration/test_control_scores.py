"""Samples of an index's controls: those of single traces, in any blocks, and from a shortlist."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from haiftrace.calibration import control_scores
from haiftrace.calibration.calibrate import CalibrationSettings, calibrated_with
from haiftrace.calibration.controls import Control, sample_controls
from haiftrace.calibration.null_distribution import GROUPS, ControlSample, read_groups, read_samples
from haiftrace.calibration.p_values import RIVALS, Margin, RecordScores
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.scoring import indexed_model
from haiftrace.scoring.gradient import full_gradients
from haiftrace.scoring.layerwise import family as layerwise_family
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.store import Index, SupplementWriter
from haiftrace.store.sample import sample_rows
from haiftrace.tracing.settings import Leak
from tests import kit
from tests.calibration.calibration_kit import (
    BOTH,
    MANY,
    calibrated_index,  # noqa: F401 (the fixture calibrated)
    opened,
    run,
)
from tests.tiny_models import SENTENCES

FAMILY = {"layerwise": layerwise_family, "haif": full_gradients}


def samples_of(path: Path, method: str):
    with Index.open(path) as index:
        samples = read_samples(index, method)
    return samples.length_N, samples.null, samples.present


def assert_same_samples(one: Path, other: Path, method: str, tolerance: float = 0.0) -> None:
    (lengths, *ours), (others, *theirs) = samples_of(one, method), samples_of(other, method)
    assert lengths.tolist() == others.tolist()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.level_N, b.level_N, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.value_N, b.value_N, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", BOTH)
def test_samples_are_those_of_single_traces(calibrated, method):
    """Each control traced by itself, its source and what it would give away left out by hand."""
    with Index.open(calibrated) as index:
        groups = read_groups(index)
        controls = sample_controls(index, MANY.controls, MANY.seed)
        windows = list(index.iter_windows())
    tracer = opened(calibrated)
    lengths, null, present = samples_of(calibrated, method)
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
        query, _ = tracer.query(leak, PromptSettings())
        if query.token_ids != list(control.token_ids) or sum(query.labels) != control.length:
            continue  # as text it would be other tokens: a seam within a word
        compared += 1
        finding = kit.traced(tracer, leak, method=method, exact=True)
        relative = method == "layerwise"
        scores = {r.id: r.score if relative else r.cosine for r in finding.records}
        own = f"r{control.record}"
        source_group = {f"r{i}" for i in np.flatnonzero(groups == groups[control.record])}
        holding = {f"r{i}" for i in control.sharing}
        others = {k: v for k, v in scores.items() if k not in source_group | holding}
        first = max(others, key=lambda k: others[k])
        for record, margins in ((first, null), (own, present)):
            mates = {f"r{i}" for i in np.flatnonzero(groups == groups[int(record[1:])])}
            best: dict[int, float] = {}
            for k, v in others.items():
                if k not in mates:
                    group = int(groups[int(k[1:])])
                    best[group] = max(v, best.get(group, v))
            level = np.mean(sorted(best.values())[-RIVALS:])
            margin = scores[record] / level - 1 if relative else scores[record] - level
            assert margins.level_N[number] == pytest.approx(level, rel=1e-5)
            assert margins.value_N[number] == pytest.approx(margin, rel=1e-5, abs=1e-6)
    assert compared > 10


def test_a_near_copy_that_holds_the_span_is_the_source():
    """r0 to r2 are near copies, the span of a control on r0 stands in r0, r2 and r3."""
    scores = np.array([0.9, 0.8, 0.5, 0.4, 0.3, 0.1, 0.2])
    of_records = RecordScores(scores, np.array([0, 0, 0, 1, 2, 3, 4]), True)

    def sampled(containing: list[int]) -> ControlSample:
        control = Control(0, 0, 0, (5, 6, 7), 1, *[np.array(containing)] * 2)
        left_out = np.array([True, True, True, False, False, False, False])
        left_out[containing] = True
        return control_scores._sample(of_records, control, left_out)

    held, rest = sampled([0, 2, 3]), pytest.approx(np.mean([0.3, 0.1, 0.2]))
    assert held.present == Margin(pytest.approx(0.5 / 0.2 - 1), rest)
    assert held.null == Margin(pytest.approx(0.3 / 0.15 - 1), pytest.approx(0.15))
    alone = sampled([0, 3])
    assert alone.present == Margin(pytest.approx(0.9 / 0.2 - 1), rest)
    assert alone.null == held.null


def test_the_same_seed_gives_the_same_and_another_another(calibrated, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        shutil.copytree(kit.index_path(), tmp_path / name)
        run(tmp_path / name, CalibrationSettings(48, seed=seed))
    assert_same_samples(calibrated, tmp_path / "same", "layerwise")
    with pytest.raises(AssertionError):
        assert_same_samples(calibrated, tmp_path / "other", "layerwise")


@pytest.mark.parametrize("method", BOTH)
def test_an_interrupted_calibration_goes_on(calibrated, tmp_path, monkeypatch, method):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    monkeypatch.setattr(control_scores, "CONTROLS_OF_A_FILE", 1)
    monkeypatch.setattr(FAMILY[method], "QUERIES_OF_A_PASS", 10)
    add, added = SupplementWriter.add_tensors, []

    def interrupted(writer, name, tensors, about):
        if name != GROUPS and len(added) == 2:
            raise KeyboardInterrupt
        add(writer, name, tensors, about)
        added.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(SupplementWriter, "add_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(path, methods=method)
    assert added == [GROUPS, f"calibration-{method}"]
    with Index.open(path) as index:
        assert calibrated_with(index, method) is None
    scored = []
    query = control_scores.ControlScorer._query

    def counted(scorer, control):
        scored.append(control.number)
        return query(scorer, control)

    monkeypatch.setattr(control_scores.ControlScorer, "_query", counted)
    monkeypatch.setattr(FAMILY[method], "QUERIES_OF_A_PASS", 7)  # of another size than before
    run(path, methods=method)
    assert min(scored) == 10
    assert_same_samples(calibrated, path, method, 1e-9)
    scored.clear()
    run(path, methods=method)
    assert scored == []


@pytest.mark.parametrize("method", BOTH)
def test_a_large_index_scores_only_what_the_vectors_propose(tmp_path, monkeypatch, method):
    """Beside the source and the windows that scores are standardised over; and as if all were."""
    reference = 4
    monkeypatch.setattr(indexed_model, "ReferenceSample", partial(ReferenceSample, size=reference))
    whole, few = tmp_path / "whole", tmp_path / "few"
    for path in (whole, few):
        shutil.copytree(kit.index_path(), path)
    fields, rows = [], []
    sample, choose = control_scores._sample, control_scores.ControlScorer._rows

    def sampled(of_records, *rest):
        fields.append(of_records.scores_R)
        return sample(of_records, *rest)

    def chosen(scorer, controls, queries):
        chosen_rows = choose(scorer, controls, queries)
        assert all(c.row in each for c, each in zip(controls, chosen_rows, strict=True))
        rows.extend(map(set, chosen_rows))
        return chosen_rows

    monkeypatch.setattr(control_scores, "_sample", sampled)
    monkeypatch.setattr(control_scores.ControlScorer, "_rows", chosen)
    run(whole, methods=method)
    everything = fields[:]
    assert all(np.isfinite(exact).all() for exact in everything)
    fields.clear()
    rows.clear()
    monkeypatch.setattr(control_scores, "ALL_WINDOWS", len(SENTENCES) - 1)
    monkeypatch.setattr(control_scores, "PROPOSED", 5)
    run(few, methods=method)
    assert len(fields) == len(rows) == len(everything)
    assert {len(each) for each in rows} <= {5, 6}
    beside = set()
    if method == "layerwise":
        with Index.open(few) as index:
            beside = set(sample_rows(index, reference, 0))
    for ours, right, each in zip(fields, everything, rows, strict=True):
        scored = np.isfinite(ours)
        # A window a record here.
        assert set(np.flatnonzero(scored).tolist()) == each | beside
        np.testing.assert_allclose(ours[scored], right[scored], rtol=1e-6, atol=1e-9)
