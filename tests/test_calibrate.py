"""Calibration of an index and the verdicts over it, end to end on a tiny trained model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from haiftrace import calibrate as calibrating
from haiftrace import control_draws
from haiftrace.calibrate import CalibrationSettings, calibrate, calibrated_with
from haiftrace.calibration.controls import Control, draw_controls
from haiftrace.calibration.draws import GROUPS, Draw, read_draws, read_groups
from haiftrace.calibration.statistics import Field
from haiftrace.findings import Finding
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring.late import LateScorer
from haiftrace.store import Index, SupplementWriter
from haiftrace.trace import Leak, Tracer, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.tiny_models import SENTENCES

MANY = CalibrationSettings(controls=48)
SOME = 0.1
"""A rate that the few controls of twelve sentences resolve."""


def run(path: Path, settings: CalibrationSettings = MANY, methods: str = "haif") -> None:
    with kit.precisely():
        calibrate(path, kit.checkpoint(), methods, MethodSettings(), settings, Silent())


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "index"
    shutil.copytree(kit.index_path(), path)
    run(path)
    return path


def opened(path: Path) -> Tracer:
    with kit.precisely():
        return Tracer(Index.open(path), kit.checkpoint())


def trace(path: Path, leak: Leak | None = None, **settings) -> Finding:
    return kit.traced(opened(path), leak, **settings)


def draws_of(path: Path, method: str = "haif"):
    with Index.open(path) as index:
        draws = read_draws(index, method)
    return draws.length_N, dict(draws.null_N), dict(draws.present_N)


def assert_same_draws(one: Path, other: Path, tolerance: float = 0.0, method: str = "haif") -> None:
    for a, b in zip(draws_of(one, method), draws_of(other, method), strict=True):
        for key in a if isinstance(a, dict) else [...]:
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance)


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
        mates = {f"r{i}" for i in np.flatnonzero(groups == groups[int(first[1:])])}
        assert null["score"][number] == pytest.approx(others[first], abs=1e-6)
        runner_up = max(v for k, v in others.items() if k not in mates)
        assert null["margin"][number] == pytest.approx(others[first] - runner_up, abs=1e-6)
        assert present["score"][number] == pytest.approx(cosines[own], abs=1e-6)
        best = max(others.values())
        assert present["margin"][number] == pytest.approx(cosines[own] - best, abs=1e-6)
    assert compared > 10


def test_a_near_copy_that_holds_the_span_is_the_source():
    """r0 to r2 are near copies, the span of a control on r0 stands in r0, r2 and r3."""
    scores = np.array([0.9, 0.8, 0.5, 0.4, 0.3, 0.1, 0.2])
    field = Field(scores, scores, np.array([0, 0, 0, 1, 2, 3, 4]))

    def drawn(containing: list[int]) -> Draw:
        control = Control(0, 0, 0, (5, 6, 7), 1, np.array(containing))
        left_out = np.array([True, True, True, False, False, False, False])
        left_out[containing] = True
        return control_draws._draw(field, control, left_out)

    held = drawn([0, 2, 3])
    assert held.present["score"] == 0.5
    assert held.present["margin"] == pytest.approx(0.5 - 0.3)
    assert held.null["score"] == 0.3
    assert held.null["margin"] == pytest.approx(0.3 - 0.2)
    alone = drawn([0, 3])
    assert alone.present["score"] == 0.9
    assert alone.null == held.null


def test_the_source_of_a_leak_is_traced(calibrated):
    finding = trace(calibrated, alpha=SOME)
    verdict = finding.verdict
    assert verdict is not None
    assert verdict.decision == "traced"
    assert finding.records[0].id == "r1"
    assert verdict.p_value == finding.records[0].p_value <= SOME
    assert verdict.null is not None
    assert sum(verdict.null.counts) == verdict.null.draws
    assert finding.records[-1].p_value > SOME


@pytest.mark.parametrize("method", ["haif-r", "haif-li"])
def test_late_interaction_is_judged_by_all_that_was_scored(method, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    run(path, methods=method)
    finding = trace(path, method=method, alpha=SOME, exact=True, top=2)
    verdict = finding.verdict
    assert verdict is not None
    assert verdict.decision == "traced", verdict
    assert finding.records[0].id == "r1"
    # The same question as a control would be: the verdict's value is that of all the scores.
    tracer = opened(path)
    with kit.precisely():
        _, question = tracer.question(Leak(PROMPT, ANSWER), Asking())
        scores = tracer.score_many([question], [method], MethodSettings(), Silent())[method][0]
    with Index.open(path) as index:
        groups = read_groups(index)
    field = Field(scores, scores, groups)
    assert verdict.value == pytest.approx(field.values(1)[verdict.statistic], rel=1e-6)


def test_late_interaction_over_a_shortlist_without_token_vectors_is_inconclusive(tmp_path):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(token_vectors=0), path)
    run(path, methods="haif-r")
    verdict = trace(path, method="haif-r", alpha=SOME, rescore=2, top=2).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    (reason,) = verdict.reasons
    assert "--exact" in reason


def test_a_response_without_a_source_is_not_traced(tmp_path):
    """The same question over an index that never held the subject's records."""
    without = [text for text in SENTENCES if "Mara" not in text]
    corpus = kit.write_corpus(tmp_path / "without.jsonl", without)
    with kit.precisely():
        kit.make_index(tmp_path / "index", corpus)
    run(tmp_path / "index")
    verdict = trace(tmp_path / "index", alpha=0.05).verdict
    assert verdict is not None
    assert verdict.decision == "no source found"


def test_too_few_controls_are_inconclusive(calibrated):
    verdict = trace(calibrated).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "cannot resolve alpha 0.01" in verdict.reasons[0]


def test_without_calibration_it_is_inconclusive():
    finding = kit.traced()
    assert finding.verdict is not None
    assert finding.verdict.decision == "inconclusive"
    assert "--calibrate 512" in finding.verdict.reasons[0]
    assert all(record.p_value is None for record in finding.records)


def test_another_method_or_its_settings_are_not_calibrated(calibrated):
    other = trace(calibrated, method="gradient-cosine", alpha=SOME).verdict
    told = trace(calibrated, methods=MethodSettings(combine="max"), alpha=SOME).verdict
    assert other is not None
    assert told is not None
    assert (other.decision, told.decision) == ("inconclusive", "inconclusive")
    assert "--methods gradient-cosine" in other.reasons[0]
    assert "other settings" in told.reasons[0]


def test_an_older_calibration_is_not_judged_by(tmp_path, monkeypatch):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    monkeypatch.setattr(calibrating, "FORMAT", 1)
    run(path, CalibrationSettings(controls=12))
    monkeypatch.undo()
    verdict = trace(path, alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "another version" in verdict.reasons[0]
    assert f"haiftrace index -o {path} --methods haif --calibrate 512" in verdict.reasons[0]
    run(path)
    assert trace(path, alpha=SOME).verdict.p_value is not None


def test_search_by_words_has_no_verdict(calibrated):
    assert trace(calibrated, method="bm25").verdict is None


def test_tracing_the_prompt_too_is_inconclusive(calibrated):
    verdict = trace(calibrated, asking=Asking(loss_on_all=True), alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "prompt" in verdict.reasons[0]


def test_a_response_that_the_model_would_not_say_is_inconclusive(calibrated):
    verdict = trace(calibrated, Leak(PROMPT, "zzzq vvxy"), alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "hardly say" in verdict.reasons[0]


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


def test_controls_by_late_interaction_share_a_pass(calibrated, tmp_path, monkeypatch):
    """One pass for all that the memory holds; in parts, with blocks of any size, the same draws."""
    passes = []
    strengths = LateScorer._strengths

    def counted(scorer, asked, progress):
        passes.append(sum(len(one.sides) for one in asked))
        return strengths(scorer, asked, progress)

    monkeypatch.setattr(LateScorer, "_strengths", counted)
    with Index.open(calibrated) as index:
        controls = draw_controls(index, MANY.controls, MANY.seed)
    for method, sides in (("haif-r", len(controls)), ("haif-li", sum(c.length for c in controls))):
        whole, parts = tmp_path / f"{method}-whole", tmp_path / f"{method}-parts"
        shutil.copytree(kit.index_path(), whole)
        shutil.copytree(kit.index_path(), parts)
        with monkeypatch.context() as patch:
            patch.setattr(control_draws, "CONTROLS_A_BLOCK", 4)
            run(whole, methods=method)
        assert passes == [sides]
        passes.clear()
        engine = opened(parts).engine_over("attention")
        with monkeypatch.context() as patch:
            patch.setattr(control_draws, "CONTROLS_A_BLOCK", 4)
            few = CalibrationSettings(MANY.controls, memory=40 * engine.gradient_bytes)
            run(parts, few, method)
        assert len(passes) >= 3
        assert max(passes) <= 40
        passes.clear()
        # The estimates' products are of float32, and round as the block is large.
        assert_same_draws(whole, parts, 1e-5, method)


def test_a_large_index_scores_only_what_the_vectors_propose(calibrated, tmp_path, monkeypatch):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(projection_dim=4096), path)
    monkeypatch.setattr(control_draws, "SCORED_WHOLE", 0)
    run(path)
    whole_lengths, whole_null, whole_present = draws_of(calibrated)
    lengths, null, present = draws_of(path)
    assert lengths.tolist() == whole_lengths.tolist()
    # The best of few is never above the best of all, nor is its rival.
    assert (null["score"] <= whole_null["score"] + 1e-9).all()
    np.testing.assert_allclose(present["score"], whole_present["score"], rtol=1e-9, atol=1e-9)
    same = np.isclose(null["score"], whole_null["score"], rtol=1e-9)
    assert same.mean() > 0.7
    assert (null["margin"][same] >= whole_null["margin"][same] - 1e-9).all()


def test_a_large_index_proposes_for_late_interaction_by_its_tokens(tmp_path, monkeypatch):
    """Present sources are scored exactly; the null's best is that of the proposed windows."""
    whole, few = tmp_path / "whole", tmp_path / "few"
    for path in (whole, few):
        shutil.copytree(kit.index_path(), path)
    run(whole, methods="haif-r")
    monkeypatch.setattr(control_draws, "SCORED_WHOLE", 0)
    monkeypatch.setattr(control_draws, "PROPOSED_LATE", 5)
    scored = []
    score = Tracer.score_many

    def counted(self, questions, names, settings, progress, rows=None):
        scored.append((len(questions), rows))
        return score(self, questions, names, settings, progress, rows)

    monkeypatch.setattr(Tracer, "score_many", counted)
    monkeypatch.setattr(control_draws.ControlDraws, "_directions", lambda self, some: 1 << 60)
    monkeypatch.setitem(control_draws.EXACT_WORK, "cpu", float("inf"))
    run(few, methods="haif-r")
    assert all(count == 1 and len(rows) < len(SENTENCES) for count, rows in scored)
    lengths, null, present = draws_of(whole, "haif-r")
    assert draws_of(few, "haif-r")[0].tolist() == lengths.tolist()
    ours = draws_of(few, "haif-r")[1]["score"]
    assert (ours <= null["score"] + 1e-9).all()
    assert np.isclose(ours, null["score"], rtol=1e-9).mean() > 0.5
    np.testing.assert_allclose(
        draws_of(few, "haif-r")[2]["score"], present["score"], rtol=1e-9, atol=1e-9
    )


def test_a_method_without_vectors_is_calibrated_too(calibrated, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(calibrated, path)
    run(path, MANY, "gradient-cosine,bm25")
    finding = trace(path, method="gradient-cosine", alpha=SOME)
    assert finding.verdict is not None
    assert finding.verdict.p_value is not None
    with Index.open(path) as index:
        assert calibrated_with(index, "gradient-cosine") == (48, 0)
        assert calibrated_with(index, "haif") == (48, 0)
        assert calibrated_with(index, "bm25") is None


def grouped_corpus(path: Path) -> Path:
    """The sentences, each with the subject it is on."""
    with path.open("w", encoding="utf-8") as lines:
        for number, text in enumerate(SENTENCES):
            who = next(
                name
                for name in ("Mara", "Tobin", "Ines", "Oswin", "Pella", "Rufus")
                if name in text
            )
            lines.write(json.dumps({"id": f"r{number}", "text": text, "who": who}) + "\n")
    return path


def test_a_group_field_joins_records(tmp_path):
    corpus, path = grouped_corpus(tmp_path / "c.jsonl"), tmp_path / "index"
    common = ("--model", kit.checkpoint_path(), "--corpus", corpus, *kit.SMALL_OPTIONS, "-q")
    made = kit.cli("index", *common, "-o", path, "--group-field", "who", "--calibrate", 12)
    assert made.code == 0, made.err
    with Index.open(path) as index:
        groups = read_groups(index)
        names = [window.group for window in index.iter_windows()]
    assert groups is not None
    for name in set(names):
        assert len({g for g, n in zip(groups.tolist(), names, strict=True) if n == name}) == 1
    traced = kit.cli("trace", PROMPT, "--response", ANSWER, "--index", path, "-o", "-", "-q")
    assert traced.code == 0, traced.err


def test_a_group_field_that_no_record_has_is_refused(tmp_path):
    corpus = grouped_corpus(tmp_path / "c.jsonl")
    common = ("--model", kit.checkpoint_path(), "--corpus", corpus, "-o", tmp_path / "i")
    kit.refused(kit.cli("index", *common, "--group-field", "whom"), "group field 'whom'")


def test_controls_can_be_added_to_a_complete_index(tmp_path):
    path = tmp_path / "index"
    common = ("--model", kit.checkpoint_path(), "--corpus", kit.corpus_path(), *kit.SMALL_OPTIONS)
    made = kit.cli("index", *common, "-o", path, "--calibrate", 0)
    assert made.code == 0, made.err
    assert "Calibrated" not in made.err
    with Index.open(path) as index:
        assert calibrated_with(index, DEFAULT_METHOD) is None
    added = kit.cli("index", "-o", path, "--calibrate", 30)
    assert added.code == 0, added.err
    assert f"Calibrated {DEFAULT_METHOD} by" in added.err
    assert "too few for verdicts at alpha 0.01" in added.err
    methods = kit.cli("index", "-o", path, "--methods", "gradient-cosine")
    assert methods.code == 0, methods.err
    with Index.open(path) as index:
        for method in (DEFAULT_METHOD, "gradient-cosine"):
            assert calibrated_with(index, method) == (30, 0)


@pytest.mark.parametrize("alpha", ["0", "1", "-0.5", "nan"])
def test_an_impossible_alpha_is_refused(calibrated, alpha):
    asked = ("trace", PROMPT, "--response", ANSWER, "--index", calibrated, f"--alpha={alpha}")
    kit.refused(kit.cli(*asked), "--alpha takes a number between 0 and 1")


def test_a_records_content_hash_is_of_its_whole_text(calibrated):
    for record in trace(calibrated).records:
        right = hashlib.sha256(SENTENCES[int(record.id[1:])].encode()).hexdigest()
        assert record.content_hash == right


def test_a_long_records_content_hash_is_of_all_its_windows():
    finding = kit.traced(kit.tracer(context=8))
    assert any(record.windows > 1 for record in finding.records)
    for record in finding.records:
        right = hashlib.sha256(SENTENCES[int(record.id[1:])].encode()).hexdigest()
        assert record.content_hash == right


def test_reports_have_q_values_over_their_findings(calibrated):
    tracer = opened(calibrated)
    leaks = [Leak(PROMPT, ANSWER), Leak("Call Oswin Darrowby at", "555-0109 after six.")]
    with kit.precisely():
        report = tracer.report(leaks, TraceSettings("haif", alpha=SOME), Silent())
    found = [finding.verdict for finding in report.findings]
    p = [verdict.p_value for verdict in found]
    q = [verdict.q_value for verdict in found]
    assert max(q) == max(p)
    assert min(q) == pytest.approx(min(2 * min(p), max(p)))


def test_the_same_index_command_keeps_the_controls_that_it_has(tmp_path):
    path = tmp_path / "index"
    made = ("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path(), "-o", path)
    for options in (
        ("--calibrate", 16, "--seed", 3),
        ("--seed", 3),
        ("--seed", 3, "--calibrate", 0),
    ):
        outcome = kit.cli(*made, *kit.SMALL_OPTIONS, *options)
        assert outcome.code == 0, outcome.err
        with Index.open(path) as index:
            assert calibrated_with(index, DEFAULT_METHOD) == (16, 3)
