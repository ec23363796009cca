"""The shortlist of late interaction: estimates from token vectors against their definition."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from haiftrace.methods import METHODS
from haiftrace.methods.settings import LateSettings, MethodSettings
from haiftrace.query import Asking
from haiftrace.scoring import token_shortlist
from haiftrace.trace import Leak, Tracer
from tests import kit
from tests.kit import ANSWER, PROMPT
from tests.test_trace_methods import unit

LEAK = Leak(PROMPT, ANSWER)
WHO = ("Mara Ellison", "Tobin Achterberg", "Rufus Okonkwo-Lind")


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
                total += max(0.0, float(stored.reconstruct(j).astype(float) @ query)) ** power
            y[window.row, q] = (total / m**0.5) ** (1 / power)
        at += m
    assert at == stored.ntotal
    if method == "haif-r":
        return y[:, 0]
    return np.maximum(0, (y - np.median(y, 0)) / np.maximum(y.std(0), 1e-3)).sum(1)


@pytest.mark.parametrize("method", ["haif-r", "haif-li"])
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
        found = tracer.background(question, METHODS[method], late)
        monkeypatch.setattr(token_shortlist, "_MATRIX_BYTES", 1)  # a direction at a time
        again = tracer.background(question, METHODS[method], late)
        proposed = tracer._token_shortlist(late).proposed(METHODS[method], question, 5)
    right = by_definition(tracer, name, method, scope, power)
    kit.close(found, right, 1e-5)
    kit.close(again, right, 1e-5)
    assert proposed == np.argsort(-right, kind="stable")[:5].tolist()
