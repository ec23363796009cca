"""The registry of influence functions against their definitions, on made-up gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.errors import UsageError
from haiftrace.methods import DEFAULT_METHOD, METHODS, WindowNorms, find_method

TOKENS, PARAMETERS = 6, 9


def example(seed: int, scale: float = 1.0, zero: bool = False):
    """Token gradients [T, P] (the first no label, the second zero), a query gradient, norms."""
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(TOKENS, PARAMETERS)) * scale
    gradients *= np.exp(generator.normal(size=(TOKENS, 1)) * 2)
    labels = np.array([False, True, *(generator.random(TOKENS - 2) < 0.7)])
    gradients[1] = 0
    gradients[~labels | zero] = 0
    norms = np.linalg.norm(gradients, axis=1)
    units = gradients / np.where(norms > 0, norms, 1)[:, None]
    query = generator.normal(size=PARAMETERS) * scale
    window = WindowNorms(
        labels=labels,
        token_norms=norms,
        grad_norm=float(np.linalg.norm(gradients.sum(0) / labels.sum())),
        haif_norm=float(np.linalg.norm(units.sum(0))),
    )
    return gradients, units, query, window


def by_definition(name: str, gradients, units, query, labels) -> np.ndarray:
    """The record-side vector r, so that the score is v·r."""
    mean = gradients.sum(0) / labels.sum()
    summed = units.sum(0)
    length = np.linalg.norm
    return {
        "haif": lambda: summed / length(summed),
        "haif-t": lambda: summed,
        "gradient-product": lambda: mean,
        "gradient-cosine": lambda: mean / length(mean) / length(query),
    }[name]()


@pytest.mark.parametrize("name", METHODS)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_score_evidence_and_cosine_are_those_of_the_definition(name, seed, scale):
    gradients, units, query, window = example(seed, scale)
    if not gradients.any():
        return
    method = METHODS[name]
    right = by_definition(name, gradients, units, query, window.labels)
    query_norm = float(np.linalg.norm(query))
    evidence = method.evidence(gradients @ query, window, query_norm)
    score = float(evidence.sum())
    size = np.abs(evidence).sum()
    assert evidence.shape == (TOKENS,)
    assert not evidence[~window.labels].any()
    assert abs(score - query @ right) <= 1e-9 * size
    expected = query @ right / np.linalg.norm(right) / query_norm
    cosine = method.cosine(score, window, query_norm)
    assert abs(cosine - expected) < 1e-6
    assert -1 <= cosine <= 1
    assert abs(
        method.record_norm(window)
        - np.linalg.norm(right) * (query_norm if method.over_query_norm else 1)
    ) <= 1e-9 * method.record_norm(window)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_divided_by_zero(name):
    gradients, _, query, window = example(1, zero=True)
    method = METHODS[name]
    for query_norm in (float(np.linalg.norm(query)), 0.0):
        evidence = method.evidence(gradients @ query, window, query_norm)
        assert not evidence.any()
        assert method.cosine(0.0, window, query_norm) == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_rounding_does_not_lead_a_cosine_out_of_its_range(name):
    window = WindowNorms(np.array([False, True]), np.array([0.0, 3.0]), 3.0, 1.0)
    method = METHODS[name]
    for sign in (1, -1):
        score = sign * 2.0 * method.record_norm(window) * (1 + 1e-12)
        query_norm = 2.0
        if method.over_query_norm:
            score /= query_norm
        assert method.cosine(score, window, query_norm) == sign


def test_the_norms_that_are_given_are_not_changed():
    _, _, _, window = example(3)
    before = window.token_norms.copy()
    for method in METHODS.values():
        method.token_weights(window)
    assert np.array_equal(window.token_norms, before)


def test_what_the_index_holds_for_the_search():
    columns = {name: method.shortlist_column for name, method in METHODS.items()}
    assert columns == {
        "haif": "",
        "haif-t": "haif_norm",
        "gradient-product": None,
        "gradient-cosine": None,
    }


def test_methods_are_found_by_name_and_an_unknown_one_is_refused():
    assert find_method(DEFAULT_METHOD).name == "haif"
    assert all(METHODS[name].name == name and METHODS[name].summary for name in METHODS)
    with pytest.raises(UsageError, match="no method 'Haif'") as caught:
        find_method("Haif")
    assert all(name in caught.value.hint for name in METHODS)
