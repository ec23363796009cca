"""Late interaction along a training run, against its definition on dense gradients."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from haiftrace.calibrate import CalibrationSettings, calibrate
from haiftrace.errors import UsageError
from haiftrace.methods.late import evidence, evidence_along, strengths
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.trace import Leak, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.methods_kit import along, reopened, run, scores, unit, without_casts

LEAK = Leak(PROMPT, ANSWER)


def exact_tracer(name, scope="attention", memory=512 << 20):
    """Casts of an architecture left out in the passes, but not where weights are read."""
    over = reopened(kit.index_path(name), name, memory)
    for engine in {over.engine, over.engine_over(scope)}:
        without_casts(engine)
    return over


def told(checkpoints, **late):
    return MethodSettings(checkpoints=checkpoints, late=LateSettings(**late))


def traced(over, settings, method="haif-rcp", **rest):
    (finding,) = over.trace(
        LEAK, TraceSettings(method, top=100, methods=settings, **rest), Silent()
    )
    return finding


def by_definition(checkpoints, scope="attention", power=3.0):
    """Mean over the checkpoints of HAIF-RQ's score with the gradients that each has."""
    found = []
    for records, asked in along(checkpoints, scope):
        met = [(unit(rows) @ unit(asked).T).clamp_min(0).pow(power) for rows in records]
        each = [(m.sum(0) / len(m) ** 0.5).pow(1 / power).mean() for m in met]
        found.append([float(score) for score in each])
    return np.array(found).mean(0)


@pytest.mark.parametrize(
    ("name", "scope"), [("gpt2", "attention"), ("gpt2", "mlp"), ("llama", "attention")]
)
def test_scores_are_those_of_the_definition(name, scope):
    over = exact_tracer(name, scope)
    before = {n: p.clone() for n, p in over.checkpoint.model.named_parameters()}
    finding = traced(over, told(run(name), scope=scope))
    kit.close(scores(finding), by_definition(run(name), scope), 1e-8)
    assert finding.exhaustive
    for record in finding.records:
        assert sum(t.evidence for t in record.tokens) == pytest.approx(record.score, abs=1e-9)

    for n, p in over.checkpoint.model.named_parameters():
        assert torch.equal(p, before[n]), n


def test_the_traced_checkpoint_alone_gives_haif_rq(monkeypatch):
    """The index's norms serve where the weights are the indexed ones, and there alone."""
    over = exact_tracer("gpt2", "linear")
    own = f"{over.checkpoint.path}:0.1"
    right = traced(over, told(None, scope="linear"), "haif-rq")
    formed = over.engine.token_gradients
    monkeypatch.setattr(over.engine, "token_gradients", None)
    alone = traced(over, told(own, scope="linear"))
    kit.close(scores(alone), scores(right), 1e-12)
    monkeypatch.setattr(over.engine, "token_gradients", formed)
    both = f"{own},{run('gpt2')}"
    kit.close(scores(traced(over, told(both, scope="linear"))), by_definition(both, "linear"), 1e-8)


@pytest.mark.parametrize("memory", [1, 512 << 20])
def test_many_questions_at_once_get_the_scores_of_each_alone(memory):
    over = exact_tracer("gpt2")
    over._room = memory
    asked = [
        over.question(leak, Asking())[1] for leak in (LEAK, Leak("Call Oswin Darrowby at", "5"))
    ]
    many = over.score_many(asked, ["haif-rcp", "haif-r"], told(run("gpt2")), Silent())
    kit.close(many["haif-rcp"][0], by_definition(run("gpt2")), 1e-8)
    kit.close(many["haif-r"][0], scores(traced(over, told(None), "haif-r")), 1e-8)
    some = over.score_many(asked, ["haif-rcp"], told(run("gpt2")), Silent(), [1, 4])
    kit.close(some["haif-rcp"], many["haif-rcp"][:, [1, 4]])


def test_candidates_are_scored_as_all_are():
    over = exact_tracer("gpt2")
    whole = traced(over, told(run("gpt2")))
    part = traced(over, told(run("gpt2")), rescore=2)
    every = {record.id: record.score for record in whole.records}
    assert part.scored == len(part.records) == 2
    for record in part.records:
        assert record.score == pytest.approx(every[record.id], rel=1e-12)


def test_the_run_has_to_be_named():
    with pytest.raises(UsageError, match="needed for haif-rcp"):
        traced(kit.tracer(), told(None))


def test_a_share_is_parted_by_the_strength_at_each_checkpoint():
    one, other = np.array([[0.5, 0.0, -1.0]]), np.array([[0.1, 0.1, 0.0]])
    pairs = evidence_along([one, other], np.array([3.0]), 2.0)
    of_one, of_other = strengths(one, 2.0)[0], strengths(other, 2.0)[0]
    expected = 3 * (of_one * np.array([1, 0, 0]) + of_other * np.array([0.5, 0.5, 0]))
    assert pairs[0] == pytest.approx(expected / (of_one + of_other))
    share = np.array([0.7])
    assert np.array_equal(evidence_along([one], share, 3.0), evidence(one, share, 3.0))
    assert evidence_along([-np.ones((1, 3))], np.zeros(1), 3.0).tolist() == [[0.0] * 3]


def test_verdicts_are_calibrated_by_the_same_run(tmp_path):
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(), path)
    settings = told(run("gpt2"))
    before = traced(reopened(path), settings, alpha=0.1).verdict
    assert f"--methods haif-rcp --checkpoints {run('gpt2')} --calibrate" in before.reasons[0]
    calibrate(
        path, kit.checkpoint(), "haif-rcp", settings, CalibrationSettings(controls=48), Silent()
    )
    over = reopened(path)
    finding = traced(over, settings, alpha=0.1, exact=True)
    assert finding.verdict.decision == "traced", finding.verdict
    assert finding.records[0].id == "r1"
    # No vector tells what a window's score may be along the run.
    part = traced(over, settings, alpha=0.1, rescore=2).verdict
    assert part.decision == "inconclusive"
    assert "only a shortlist" in part.reasons[0]
    other = told(",".join(reversed(run("gpt2").split(","))))
    assert "other settings" in traced(over, other, alpha=0.1).verdict.reasons[0]
