"""Late interaction against its definition on dense gradients, through the whole pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from haiftrace.engine import GradientEngine
from haiftrace.methods.late import Reference, evidence, meeting, strengths
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.prepare import prepare
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring.late_norms import stored_norms
from haiftrace.store import Index
from haiftrace.trace import Leak, Tracer, TraceSettings
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.methods_kit import scores, unit
from tests.tiny_models import SENTENCES

LEAK = Leak(PROMPT, ANSWER)


def found(name, method, **settings):
    rest = {key: settings.pop(key) for key in ("exact", "rescore", "top") if key in settings}
    late = MethodSettings(late=LateSettings(**settings))
    over = kit.tracer(name)
    with kit.precisely():
        (finding,) = over.trace(
            LEAK, TraceSettings(method, **{"top": 100, **rest}, methods=late), Silent()
        )
    return finding


def by_definition(name, method, scope, power=3.0):
    rows = [unit(each) for each in kit.oracle(name, scope).gradients]
    encoded = kit.checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    wanted = [end > len(PROMPT) + 1 for _, end in encoded["offset_mapping"]][1:]
    asked = rows[-1][wanted]
    if method == "haif-r":
        asked = unit(kit.answer_gradient(name, scope)).unsqueeze(0)
    found = []
    for record in rows[:-1]:
        met = (record @ asked.T).clamp_min(0) ** power
        found.append((met.sum(0) / len(record) ** 0.5) ** (1 / power))
    y = torch.stack(found).numpy()
    if method in ("haif-r", "haif-rq"):
        return y.mean(1)
    z = np.maximum((y - np.median(y, 0)) / np.maximum(y.std(0), 1e-3), 0).sum(1)
    return z if method == "haif-li" else np.sqrt(z * by_definition(name, "haif-r", scope, power))


@pytest.mark.parametrize("method", ["haif-r", "haif-rq", "haif-li", "haif-rli"])
@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *(("gpt2", scope) for scope in ("attention", "value", "mlp", "last-half", "linear")),
        *(("gpt2", scope) for scope in ("matrices", "all")),
        ("llama", "attention"),
        ("gpt-neox", "attention"),
    ],
)
def test_scores_are_those_of_the_definition(name, scope, method):
    finding = found(name, method, scope=scope)
    kit.close(scores(finding), by_definition(name, method, scope), 1e-8)
    assert finding.exhaustive
    for record in finding.records:
        assert sum(t.evidence for t in record.tokens) == pytest.approx(record.score, abs=1e-9)


@pytest.mark.parametrize("method", ["haif-li", "haif-rli"])
def test_a_score_does_not_depend_on_the_shortlist(method):
    """The reference is a sample of its own, whatever is proposed or left out."""
    whole = found("gpt2", method, reference=5, exact=True)
    part = found("gpt2", method, reference=5, rescore=2)
    every = {record.id: record.score for record in whole.records}
    assert whole.exhaustive
    assert not part.exhaustive
    assert len(part.records) == part.scored < len(SENTENCES)
    for record in part.records:
        assert record.score == pytest.approx(every[record.id], rel=1e-12)
    one = found("gpt2", "haif-r", rescore=1)
    assert one.scored == 1


@pytest.mark.parametrize("memory", [1, 512 << 20])
def test_many_questions_at_once_get_the_scores_of_each_alone(memory):
    over, settings = kit.tracer(), MethodSettings()
    with kit.precisely():
        questions = [
            over.question(leak, Asking())[1] for leak in (LEAK, Leak("Call Oswin Darrowby at", "5"))
        ]
        before, over._memory = over._memory, memory
        many = over.score_many(
            questions, ["haif-r", "haif-rq", "haif-li", "haif-rli"], settings, Silent()
        )
        over._memory = before
    for method, rows in many.items():
        assert rows.shape == (2, len(SENTENCES))
        kit.close(rows[0], by_definition("gpt2", method, "attention"), 1e-8)


def test_parts_of_the_rule():
    cosines = np.array([[0.5, -1.0, 0.0, 0.5], [-0.1, -0.2, 0.0, -1.0]])
    y = strengths(cosines, 3.0)
    assert y == pytest.approx([(0.25 / 2) ** (1 / 3), 0.0])
    pairs = evidence(cosines, np.array([2.0, 0.0]), 3.0)
    assert pairs.tolist() == [[1.0, 0.0, 0.0, 1.0], [0.0] * 4]
    same = Reference.of(np.full((5, 2), 0.25))
    assert same.above(np.array([[0.25, 0.251]])).tolist() == [[0.0, pytest.approx(1.0)]]


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
def test_norms_over_another_scope_are_kept_on_demand(method, tmp_path, monkeypatch):
    """First computed in the trace, with the command that keeps them; then taken from the index."""
    said = []

    class Listening(Silent):
        def say(self, text):
            said.append(text)

    path = tmp_path / "index"
    model, corpus = kit.checkpoint(), kit.corpus_path()
    settings = MethodSettings(late=LateSettings(scope="mlp"))
    with kit.precisely():
        kit.make_index(path, corpus, model)
        with Index.open(path) as index:
            over, asked = Tracer(index, model), TraceSettings(method, top=100, methods=settings)
            (before,) = over.trace(LEAK, asked, Listening())
        assert any(f"--methods {method} --scope mlp" in text for text in said)
        prepare(path, model, method, settings, 1 << 29, Silent())
        with Index.open(path) as index:
            for row in index.iter_windows():
                kept = stored_norms(index, row, "mlp")
                kit.close(kept[1:], kit.oracle(scope="mlp").gradients[row.record].norm(dim=1))
            said.clear()
            passes = []
            formed = GradientEngine.token_gradients
            monkeypatch.setattr(
                GradientEngine,
                "token_gradients",
                lambda *told, **more: (passes.append(1), formed(*told, **more))[1],
            )
            over = Tracer(index, model)
            (after,) = over.trace(LEAK, asked, Listening())
    assert not said
    # No record's: HAIF-RLI weighs the question's tokens by the norms of theirs.
    assert len(passes) == (method == "haif-rli")
    kit.close(
        np.array([record.score for record in after.records]),
        np.array([record.score for record in before.records]),
    )
    right = by_definition("gpt2", method, "mlp")
    kit.close(scores(after), right)


@pytest.mark.parametrize("method", ["haif-r", "haif-rq", "haif-li", "haif-rli"])
def test_scores_of_some_windows_are_those_of_all(method):
    """The reference is the same sample, whatever is scored beside it."""
    over = kit.tracer()
    settings = MethodSettings(late=LateSettings(reference=5))
    with kit.precisely():
        asked = [over.question(leak, Asking())[1] for leak in (LEAK, Leak(PROMPT, " A friend"))]
        whole = over.score_many(asked, [method], settings, Silent())[method]
        some = over.score_many(asked, [method], settings, Silent(), [1, 4, 7])[method]
    kit.close(some, whole[:, [1, 4, 7]])


@pytest.mark.parametrize("power", [2.0, 3.0])
@pytest.mark.parametrize("cosine", [0.2, 0.35, 0.6])
def test_what_an_error_adds_to_a_cosine_is_taken_off(power, cosine):
    """Of estimates with a normal error the mean is that of the exact cosine."""
    error = 1 / 1024
    estimates = cosine + np.random.default_rng(0).normal(0, error**0.5, 1_000_000)
    right = cosine**power
    off = 4 * (estimates**power).std() / 1000  # four standard errors
    assert abs(meeting(estimates, power, error).mean() - right) < off
    assert meeting(estimates, power).mean() - right > 2 * off


def test_an_error_leaves_less_of_no_cosine_at_all_and_never_turns_the_sign():
    estimates = np.random.default_rng(0).normal(0, 1 / 32, 100_000)
    with_it, without = meeting(estimates, 3.0, 1 / 1024), meeting(estimates, 3.0)
    assert with_it.min() >= 0
    assert with_it.mean() < without.mean() / 4
    assert (with_it <= without).all()
    for power in (0.5, 1.0):  # nothing is added to the mean, or less than nothing
        np.testing.assert_array_equal(meeting(estimates, power, 1.0), meeting(estimates, power))
    few = np.array([0.0, 1e-200, 1.0])
    assert np.isfinite(meeting(few, 1.5, 1e-3)).all()
