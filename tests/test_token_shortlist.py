"""The shortlist of late interaction: estimates from token vectors against their definition."""

from __future__ import annotations

import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest

from haiftrace import candidates
from haiftrace.calibrate import CalibrationSettings, calibrate
from haiftrace.calibration.controls import draw_controls
from haiftrace.control_draws import ControlDraws
from haiftrace.findings import Finding
from haiftrace.methods import METHODS
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring import token_shortlist
from haiftrace.scoring.meetings import Meeting
from haiftrace.scoring.sides import sides_of
from haiftrace.scoring.token_shortlist import token_scope, why_without
from haiftrace.store import Index
from haiftrace.trace import Leak, Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.methods_kit import unit
from tests.tiny_models import SENTENCES

LEAK = Leak(PROMPT, ANSWER)


def over(name: str = "gpt2", scope: str = "attention", **settings) -> Tracer:
    return kit.tracer(name, parameters=scope, **settings)


def settings(scope: str = "attention", **late) -> MethodSettings:
    return MethodSettings(late=LateSettings(scope=scope, **late))


def projected(tracer: Tracer, name: str, scope: str, gradients) -> np.ndarray:
    """Rows of dense gradients, unit and projected one by one."""
    dim = tracer.index.layout.token_vectors
    projector = tracer.engine.projector(dim, tracer.index.settings["seed"])
    rows = []
    for row in unit(gradients):
        parts = kit.oracle(name, scope).split(row[None])
        named = dict(
            zip(kit.oracle(name, scope).shapes, (p[0] for p in parts.values()), strict=True)
        )
        rows.append(tracer.engine.project(named, projector).numpy())
    return np.stack(rows)


def by_definition(tracer: Tracer, name: str, method: str, scope: str, power: float) -> np.ndarray:
    """A loop over windows and stored vectors, read one by one."""
    encoded = kit.checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    wanted = [end > len(PROMPT) + 1 for _, end in encoded["offset_mapping"]][1:]
    asked = kit.oracle(name, scope).gradients[-1][wanted]
    if method == "haif-r":
        asked = kit.answer_gradient(name, scope)[None]
    queries = projected(tracer, name, scope, asked)
    stored = faiss.read_index(str(tracer.index.path / "tokens.faiss"))
    y, at = np.zeros((len(tracer.index), len(queries))), 0
    for window in tracer.index.iter_windows():
        m = sum(window.labels)
        for q, query in enumerate(queries):
            total = 0.0
            for j in range(at, at + m):
                cosine = max(1e-300, float(stored.reconstruct(j).astype(float) @ query))
                added = power * (power - 1) / 2 / stored.d * cosine ** (power - 2)
                total += max(0.0, cosine**power - added)
            y[window.row, q] = (total / m**0.5) ** (1 / power)
        at += m
    assert at == stored.ntotal
    if method == "haif-r":
        return y[:, 0]
    z = np.maximum(0, (y - np.median(y, 0)) / np.maximum(y.std(0), 1e-3)).sum(1)
    if method == "haif-li":
        return z
    return np.sqrt(z * by_definition(tracer, name, "haif-r", scope, power))


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
@pytest.mark.parametrize(
    ("name", "scope", "power", "context"),
    [
        ("gpt2", "attention", 3.0, None),
        ("gpt2", "value", 2.5, 8),
        ("llama", "attention", 4.0, None),
    ],
)
def test_estimates_are_those_of_the_definition(name, scope, power, context, method, monkeypatch):
    tracer = over(name, scope, **({} if context is None else {"context": context}))
    late = settings(scope, power=power)
    with kit.precisely():
        _, question = tracer.question(LEAK, Asking())
        found = tracer.candidates.background(question, METHODS[method], late)
        monkeypatch.setattr(token_shortlist, "_MATRIX_BYTES", 1)  # a direction at a time
        again = tracer.candidates.background(question, METHODS[method], late)
        proposed = tracer.candidates.by_tokens(late).proposed(METHODS[method], question, 5)
    right = by_definition(tracer, name, method, scope, power)
    kit.close(found, right, 1e-5)
    kit.close(again, right, 1e-5)
    assert proposed == np.argsort(-right, kind="stable")[:5].tolist()


LEAKS = (
    LEAK,
    Leak("Tobin Achterberg's phone number is", "555-0177."),
    Leak("The phone number of Rufus Okonkwo-Lind is", "555-0163."),
    Leak("Call Oswin Darrowby at", "555-0109 after six."),
    Leak("Pella Vantongeren's email address is", "pella@example.net."),
    Leak("Oswin Darrowby studied", "botany in Lindenholm."),
)


def found(tracer: Tracer, method: str, leak: Leak = LEAK, **told) -> Finding:
    rest = {key: told.pop(key) for key in ("exact", "candidates", "rescore", "top") if key in told}
    return kit.traced(tracer, leak, method=method, methods=settings(**told), **rest)


@pytest.mark.parametrize("method", ["haif-r", "haif-li", "haif-rli"])
def test_the_candidates_hold_the_exact_first(method):
    """Two of twelve windows, by 64 dimensions a token, on a trained model."""
    tracer, held = over(), 0
    for leak in LEAKS:
        exact = found(tracer, method, leak, exact=True, reference=4)
        short = found(tracer, method, leak, rescore=2, reference=4)
        assert short.scored < exact.scored == len(SENTENCES)
        with kit.precisely():
            _, question = tracer.question(leak, Asking())
            proposed = tracer.candidates.by_tokens(settings()).proposed(
                METHODS[method], question, 2
            )
        held += exact.records[0].id in {f"r{row}" for row in proposed}
        if exact.records[0].id in {f"r{row}" for row in proposed}:
            assert short.records[0].id == exact.records[0].id
            assert short.records[0].score == pytest.approx(exact.records[0].score, rel=1e-9)
    assert held == len(LEAKS)


def test_a_model_that_is_not_small_scores_fewer_exactly(monkeypatch):
    """HAIF-R's one direction costs least: where candidates are worse, it meets more of them."""
    monkeypatch.setattr(candidates, "RESCORE", 7)
    monkeypatch.setattr(candidates, "RESCORE_ON_CPU", 3)
    monkeypatch.setattr(candidates, "RESCORE_BY_TOKEN", 2)
    monkeypatch.setattr(candidates, "CANDIDATES", 5)

    def scored(method: str, vectors: int = 64, **told: int) -> int:
        index = kit.index_path(parameters="attention", token_vectors=vectors)
        with kit.precisely():
            tracer = Tracer(Index.open(index), kit.checkpoint())
        return found(tracer, method, **told).scored

    assert scored("haif-rq") == scored("haif-r") == scored("haif-r", vectors=0) == 7
    monkeypatch.setattr(candidates, "SMALL_MODEL", kit.checkpoint().parameters)
    assert scored("haif-r") == 3
    assert scored("haif-rq") == scored("haif-rq", vectors=0) == 2
    assert scored("haif-r", vectors=0) == 5
    assert scored("haif-r", candidates=4) == scored("haif-rq", candidates=4) == 4
    assert scored("haif-r", candidates=4, rescore=2) == 2


@pytest.mark.parametrize("method", ["haif-li", "haif-rli"])
def test_where_a_reference_takes_long_it_is_of_estimates(method, monkeypatch):
    """Z-scores are over the estimates of all windows: no shortlist and no --exact changes one."""
    with kit.precisely():
        path = kit.index_path(parameters="attention")
        quick = Tracer(Index.open(path), kit.checkpoint())
        monkeypatch.setitem(candidates.EXACT_REFERENCE, "cpu", 0.0)
        tracer = Tracer(Index.open(path), kit.checkpoint())
        _, question = tracer.question(LEAK, Asking())
        tokens = sides_of(METHODS["haif-rq"], question)
        late = tracer.late_scorer(METHODS["haif-rq"], settings())
        whole = late.scores([METHODS["haif-r"]], [question], Silent())["haif-r"][0]
        estimates = tracer.candidates.by_tokens(settings())
        y_NQ = estimates.strengths(
            token_shortlist.vectors_of(tokens, tracer.engine, estimates._projector)
        )
        (exact_NQ,) = late._strengths([Meeting(range(len(tracer.index)), tokens)], Silent())
    assert quick.candidates.reference(settings()) is None
    assert tracer.candidates.reference(settings(reference=5)) is None
    right = (exact_NQ - np.median(y_NQ, 0)) / np.maximum(y_NQ.std(0), 1e-3)
    right = np.maximum(right, 0).sum(1)
    if method == "haif-rli":
        right = np.sqrt(right * whole)
    exact = found(tracer, method, exact=True, top=100)
    short = found(tracer, method, rescore=3, top=100)
    assert (exact.scored, short.scored) == (len(SENTENCES), 3)
    for finding in (exact, short):
        for record in finding.records:
            assert record.score == pytest.approx(right[int(record.id[1:])], rel=1e-6)
    controls = [control for control in draw_controls(tracer.index, 4, 0) if control.length == 1]
    told = (np.arange(len(SENTENCES)), 1 << 20, controls)
    for over_, estimated in ((tracer, True), (quick, False)):
        draws = ControlDraws(over_, METHODS[method], settings(), *told)
        assert draws.estimated is estimated


def test_another_scope_or_no_vectors_is_said():
    """Candidates by one vector a record, and a note."""
    fallback = {"over 'linear', not over 'attention'": over(scope="linear")}
    fallback["no token vectors"] = over(token_vectors=0)
    for why, tracer in fallback.items():
        finding = found(tracer, "haif-r", rescore=3)
        (note,) = [note for note in finding.notes if "one vector a record" in note]
        assert why in note
        assert finding.scored == 3
    assert not found(over(), "haif-r", rescore=3).notes
    for told in ({"rescore": 3, "exact": True}, {"rescore": 256}):
        assert not found(over(scope="linear"), "haif-r", **told).notes


def test_a_token_scope_of_its_own_counts(monkeypatch):
    index = over().index
    assert token_scope(index) == "attention"
    assert why_without(index, "attention") is None
    told = {**index.settings, "token_scope": "value"}
    monkeypatch.setattr(Index, "settings", property(lambda self: told))
    assert token_scope(index) == "value"
    assert why_without(index, "value") is None
    assert "over 'value', not over 'attention'" in why_without(index, "attention")


def test_a_shortlist_has_a_verdict(tmp_path):
    """The estimates of all windows are what those that are not scored are judged by."""
    path = tmp_path / "index"
    shutil.copytree(kit.index_path(parameters="attention"), path)
    with kit.precisely():
        calibrate(
            path, kit.checkpoint(), "haif-r", settings(), CalibrationSettings(controls=48), Silent()
        )
        tracer = Tracer(Index.open(path), kit.checkpoint())
    finding = kit.traced(tracer, method="haif-r", methods=settings(), rescore=6, top=2, alpha=0.1)
    assert finding.scored == 6
    assert finding.verdict is not None
    assert not any("only a shortlist was scored" in reason for reason in finding.verdict.reasons)
    assert finding.verdict.decision == "traced", finding.verdict
    assert finding.records[0].id == "r1"


def test_a_name_in_the_question_asks_too():
    tracer = over()
    with kit.precisely():
        _, question = tracer.question(LEAK, Asking())
        named = replace(question, names=(1, 2))
        projector = tracer.engine.projector(64, 0)
        for method in (METHODS["haif-r"], METHODS["haif-li"]):
            alone = token_shortlist.vectors_of(sides_of(method, question), tracer.engine, projector)
            both = token_shortlist.vectors_of(sides_of(method, named), tracer.engine, projector)
            assert len(both) == len(sides_of(method, named))
            assert len(both) - len(alone) == (2 if method.by_token else 0)
            assert np.abs(both[-len(alone) :] - alone).max() < 1e-6 or not method.by_token
            assert method.by_token or np.abs(both - alone).max() > 1e-3
