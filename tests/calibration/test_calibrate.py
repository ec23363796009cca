"""Calibration of an index and the verdicts over it, end to end on a tiny trained model."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from haiftrace.calibration import calibrate as calibrating
from haiftrace.calibration import control_scores, cost
from haiftrace.calibration.calibrate import CalibrationSettings, calibrated_with
from haiftrace.calibration.cost import LEAST, LITTLE_WORK, ControlCost
from haiftrace.calibration.null_distribution import read_groups, read_samples
from haiftrace.engine import make_batch
from haiftrace.findings import Finding
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from tests import kit
from tests.calibration.calibration_kit import (
    BOTH,
    MANY,
    calibrated_index,  # noqa: F401 (the fixture calibrated)
    opened,
    run,
)
from tests.kit import ANSWER, PROMPT
from tests.tiny_models import SENTENCES

BIRTHPLACE = Leak("Ines Quillfeather was born in", "Brackwater")
"""An answer that a record holds, and that as a name many records could hold."""
SOME = 0.1
"""A rate that the few controls of twelve sentences resolve."""


def trace(path: Path, leak: Leak | None = None, **settings) -> Finding:
    return kit.traced(opened(path), leak, **{"method": DEFAULT_METHOD, **settings})


@pytest.mark.parametrize("method", BOTH)
def test_the_source_of_a_leak_is_traced(calibrated, method):
    finding = trace(calibrated, method=method, alpha=SOME)
    verdict = finding.verdict
    assert verdict is not None
    assert verdict.decision == "traced"
    assert finding.records[0].id == "r1"
    assert verdict.p_value == finding.records[0].p_value <= SOME
    assert verdict.null is not None
    assert sum(verdict.null.counts) == verdict.null.samples
    assert finding.records[-1].p_value > SOME


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
    verdict = trace(calibrated, BIRTHPLACE).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "cannot resolve alpha 0.01" in verdict.reasons[0]


def test_without_calibration_it_is_inconclusive():
    finding = trace(kit.index_path(), BIRTHPLACE)
    assert finding.verdict is not None
    assert finding.verdict.decision == "inconclusive"
    assert "--calibrate 512" in finding.verdict.reasons[0]
    assert all(record.p_value is None for record in finding.records)


def test_another_method_or_its_settings_are_not_calibrated(calibrated):
    other = trace(calibrated, BIRTHPLACE, method="gradient-cosine", alpha=SOME).verdict
    settings = MethodSettings(combine="max")
    told = trace(calibrated, BIRTHPLACE, method="haif", methods=settings, alpha=SOME).verdict
    assert other is not None
    assert told is not None
    assert (other.decision, told.decision) == ("inconclusive", "inconclusive")
    assert "--method gradient-cosine" in other.reasons[0]
    assert "other settings" in told.reasons[0]


def test_an_older_calibration_is_not_judged_by(tmp_path, monkeypatch):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    monkeypatch.setattr(calibrating, "FORMAT", 1)
    run(path, CalibrationSettings(controls=12))
    monkeypatch.undo()
    verdict = trace(path, BIRTHPLACE, alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "another version" in verdict.reasons[0]
    assert f": haiftrace index -o {path} " in verdict.reasons[0]
    assert verdict.reasons[0].endswith(" --calibrate 512")
    run(path)
    assert trace(path, alpha=SOME).verdict.p_value is not None


def test_search_by_words_has_no_verdict(calibrated):
    assert trace(calibrated, method="bm25").verdict is None


def test_tracing_the_prompt_too_is_inconclusive(calibrated):
    verdict = trace(calibrated, prompting=PromptSettings(loss_on_all=True), alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "prompt" in verdict.reasons[0]


def test_a_response_that_the_model_would_not_say_is_inconclusive(calibrated):
    verdict = trace(calibrated, Leak(PROMPT, "zzzq vvxy"), alpha=SOME).verdict
    assert verdict is not None
    assert verdict.decision == "inconclusive"
    assert "hardly say" in verdict.reasons[0]


def test_a_further_method_is_calibrated_beside_the_others(calibrated, tmp_path):
    path = tmp_path / "index"
    shutil.copytree(calibrated, path)
    run(path, MANY, "gradient-cosine,bm25")
    finding = trace(path, method="gradient-cosine", alpha=SOME)
    assert finding.verdict is not None
    assert finding.verdict.p_value is not None
    with Index.open(path) as index:
        assert calibrated_with(index, "gradient-cosine") == (48, 0)
        assert calibrated_with(index, DEFAULT_METHOD) == (48, 0)
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
    finding = kit.traced(kit.tracer(context=8), method=DEFAULT_METHOD)
    assert any(record.windows > 1 for record in finding.records)
    for record in finding.records:
        right = hashlib.sha256(SENTENCES[int(record.id[1:])].encode()).hexdigest()
        assert record.content_hash == right


def test_reports_have_q_values_over_their_findings(calibrated):
    tracer = opened(calibrated)
    leaks = [Leak(PROMPT, ANSWER), Leak("Call Oswin Darrowby at", "555-0109 after six.")]
    with kit.precisely():
        report = tracer.report(leaks, TraceSettings(alpha=SOME), Silent())
    found = [finding.verdict for finding in report.findings]
    p = [verdict.p_value for verdict in found]
    q = [verdict.q_value for verdict in found]
    assert max(q) == max(p)
    assert min(q) == pytest.approx(min(2 * min(p), max(p)))


@pytest.mark.parametrize("method", BOTH)
def test_a_verdict_does_not_depend_on_the_other_leaks_or_their_order(calibrated, method):
    tracer = opened(calibrated)
    leaks = [
        Leak(PROMPT, ANSWER),
        Leak("Call Oswin Darrowby at", "555-0109 after six."),
        Leak("Ines Quillfeather was born in", "Brackwater"),
        Leak(PROMPT, "555-0109."),
    ]
    settings = TraceSettings(method, top=3, alpha=SOME)

    def judged(places):
        with kit.precisely():
            report = tracer.report([leaks[place] for place in places], settings, Silent())
        return dict(zip(places, report.findings, strict=True))

    right = judged([0, 1, 2, 3])
    assert len({finding.verdict.p_value for finding in right.values()}) > 1
    for places in ([3, 1, 0, 2], [2, 3, 1, 0]):
        for place, finding in judged(places).items():
            verdict, other = finding.verdict, right[place].verdict
            assert verdict.decision == other.decision
            assert (verdict.p_value, verdict.q_value) == (other.p_value, other.q_value)
            assert (verdict.lengths, verdict.power) == (other.lengths, other.power)
            assert verdict.value == pytest.approx(other.value, rel=1e-9)
            assert [r.id for r in finding.records] == [r.id for r in right[place].records]
    for place in right:
        (alone,) = judged([place]).values()
        assert alone.verdict.p_value == right[place].verdict.p_value


# What controls cost


def test_controls_are_as_many_as_cost_what_indexing_did():
    """By hand: a control of 4 tokens over 100 windows of 50 labels, 10 multiplications a pair."""
    cost = ControlCost(100, 50.0, 4.0, dot_work=10_000_000, index_work=6e13)
    assert cost.affordable(512) == 300
    assert cost.affordable(250) == 250
    dear = replace(cost, index_work=1e13)
    assert dear.affordable(512) == LEAST == 200
    assert dear.affordable(50) == 50
    # Where all of it is little work, it does not matter what indexing cost.
    little = replace(cost, dot_work=10, index_work=0.0)
    assert little.affordable(512) == 512
    each = 100 * 50 * 4 * 10
    assert little.affordable(10**9) == LITTLE_WORK / each


@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied"])
def test_the_work_of_a_control_is_what_its_cosines_multiply(name):
    """By FLOPs as torch counts them, a multiplication and an addition each."""
    similarity = kit.tracer(name).session.model.similarity
    with kit.precisely():
        labels = similarity.queries([make_batch([[5, 6, 7, 8, 9, 5, 6]])])
    work = 0
    for ours, theirs in zip(labels.layers, labels.select([0, 3]).layers, strict=True):
        with FlopCounterMode(display=False) as counter:
            assert ours.cosines(theirs).shape == (6, 2)
        work += counter.get_total_flops() // 2
    assert work == 6 * 2 * similarity.token_cost.dot_work


def test_the_work_of_full_gradients_is_that_of_their_parameters():
    model = kit.tracer("bloom").session.model
    numbers = sum(value.numel() for value in model.engine.parameters.values())
    assert model.similarity.token_cost.dot_work == numbers


def test_only_the_controls_that_are_affordable_are_sampled(tmp_path, monkeypatch):
    """And those that were asked for, or that an index has, whatever they cost."""
    monkeypatch.setattr(cost, "LITTLE_WORK", 0.0)
    monkeypatch.setattr(cost, "LEAST", 10)
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    monkeypatch.setattr(control_scores, "ControlCost", _dear)
    run(path, CalibrationSettings(controls=48), ",".join(BOTH))
    with Index.open(path) as index:
        # What other methods cost is not known so well, and they are calibrated when asked for.
        assert calibrated_with(index, "layerwise") == (10, 0)
        assert calibrated_with(index, "haif") == (48, 0)
        assert read_samples(index, "layerwise").count <= 10
    run(path, CalibrationSettings(controls=48, fixed_count=True))
    with Index.open(path) as index:
        assert calibrated_with(index, "layerwise") == (48, 0)
        before = read_samples(index, "layerwise")
        assert 10 < before.count <= 48
    run(path, CalibrationSettings(controls=30), ",".join(BOTH))
    with Index.open(path) as index:
        for method in BOTH:
            assert calibrated_with(index, method) == (48, 0)
        after = read_samples(index, "layerwise").null
    assert after.value_N.tolist() == before.null.value_N.tolist()
    run(path, CalibrationSettings(controls=30, fixed_count=True), "haif")
    with Index.open(path) as index:
        assert calibrated_with(index, "haif") == (30, 0)


def _dear(**told) -> ControlCost:
    """Controls of a model whose indexing was for nothing."""
    return ControlCost(**{**told, "index_work": 0.0})


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
