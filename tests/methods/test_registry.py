"""The registry of influence functions against their definitions, on made-up gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.errors import UsageError
from haiftrace.methods import (
    DEFAULT_METHOD,
    EK_FAC,
    IDENTITY,
    LISSA,
    METHODS,
    Adjustment,
    GradientMethod,
    LayerwiseMethod,
    LexicalMethod,
    Rule,
    TrajectoryMethod,
    WindowNorms,
    check_rule,
    find_methods,
)
from haiftrace.methods.settings import DampingSetting, FactorSettings, MethodSettings

TOKENS, PARAMETERS = 6, 9
GRADIENT_METHODS = [name for name, m in METHODS.items() if isinstance(m, GradientMethod)]
ADJUSTED = [name for name in GRADIENT_METHODS if METHODS[name].adjusted]
PLAIN = Rule()


class Example:
    """Token gradients [T, P] (the first no label, the second zero), a query gradient, an inverse
    curvature, and their norms under a rule's adjustment."""

    def __init__(self, seed: int, scale: float = 1.0, zero: bool = False, rule: Rule = PLAIN):
        generator = np.random.default_rng(seed)
        gradients = generator.normal(size=(TOKENS, PARAMETERS)) * scale
        gradients *= np.exp(generator.normal(size=(TOKENS, 1)) * 2)
        labels = np.array([False, True, *(generator.random(TOKENS - 2) < 0.7)])
        gradients[1] = 0
        gradients[~labels | zero] = 0
        root = generator.normal(size=(PARAMETERS, PARAMETERS))
        self.gradients = gradients
        self.labels = labels
        self.query = generator.normal(size=PARAMETERS) * scale
        self.maps = {
            IDENTITY: np.eye(PARAMETERS),
            EK_FAC: np.linalg.inv(root @ root.T + np.eye(PARAMETERS)),
            LISSA: np.linalg.inv(root.T @ root + np.eye(PARAMETERS)),
        }
        self.rule = rule
        self.window = WindowNorms(
            labels,
            {m: np.linalg.norm(self.in_metric(m), axis=1) for m in (IDENTITY, EK_FAC)},
            {m: float(np.linalg.norm(self.mean(m))) for m in (IDENTITY, EK_FAC)},
            {m: float(np.linalg.norm(self.adjusted(m).sum(0))) for m in (IDENTITY, EK_FAC)},
        )

    def in_metric(self, metric: str) -> np.ndarray:
        return self.gradients @ self.maps[metric].T

    def mean(self, metric: str) -> np.ndarray:
        return self.in_metric(metric).sum(0) / self.labels.sum()

    def adjusted(self, metric: str) -> np.ndarray:
        """A(M g_j) as a row a token."""
        rows = self.in_metric(metric)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        power = self.rule.adjustment.power
        return rows * np.where(norms > 0, np.where(norms > 0, norms, 1.0) ** -power, 0.0)

    def direction(self, method: GradientMethod) -> np.ndarray:
        return self.maps[method.preconditioner] @ self.query

    def by_definition(self, name: str) -> float:
        """The score as DESIGN's table writes it."""
        v, length = self.query, np.linalg.norm
        unit = self.adjusted(IDENTITY).sum(0)
        steep = self.adjusted(EK_FAC).sum(0)
        return {
            "haif": lambda: v @ unit / length(unit),
            "haif-t": lambda: v @ unit,
            "gradient-product": lambda: v @ self.mean(IDENTITY),
            "gradient-cosine": lambda: (
                v @ self.mean(IDENTITY) / length(self.mean(IDENTITY)) / length(v)
            ),
            "lissa": lambda: v @ self.maps[LISSA] @ self.mean(IDENTITY),
            "ek-fac": lambda: v @ self.mean(EK_FAC),
            "relatif": lambda: v @ self.mean(EK_FAC) / length(self.mean(EK_FAC)),
            "ahif": lambda: v @ steep / length(steep),
        }[name]()

    def evidence(self, method: GradientMethod) -> np.ndarray:
        dots = self.gradients @ self.direction(method)
        return method.evidence(dots, self.window, float(np.linalg.norm(self.query)), self.rule)

    def cosine(self, method: GradientMethod, score: float) -> float:
        lengths = [float(np.linalg.norm(x)) for x in (self.query, self.direction(method))]
        return method.cosine(score, self.window, *lengths, self.rule)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_score_and_evidence_are_those_of_the_definition(name, seed, scale):
    example = Example(seed, scale)
    if not example.gradients.any():
        return
    evidence = example.evidence(METHODS[name])
    assert evidence.shape == (TOKENS,)
    assert not evidence[~example.labels].any()
    right = example.by_definition(name)
    assert abs(evidence.sum() - right) <= 1e-9 * max(np.abs(evidence).sum(), abs(right))


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_the_cosine_is_the_angle_of_query_side_and_record_side(name, seed, scale):
    example = Example(seed, scale)
    if not example.gradients.any():
        return
    method = METHODS[name]
    mean, length = example.mean(IDENTITY), np.linalg.norm
    record_side = {
        "haif": example.adjusted(IDENTITY).sum(0),
        "haif-t": example.adjusted(IDENTITY).sum(0),
        "relatif": example.mean(EK_FAC),
        "ahif": example.adjusted(EK_FAC).sum(0),
    }.get(name, mean)
    query_side = example.direction(method) if name in ("lissa", "ek-fac") else example.query
    expected = query_side @ record_side / length(query_side) / length(record_side)
    cosine = example.cosine(method, float(example.evidence(method).sum()))
    assert abs(cosine - expected) < 1e-6
    assert -1 <= cosine <= 1


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_nothing_is_divided_by_zero(name):
    example = Example(1, zero=True)
    method = METHODS[name]
    for query in (example.query, np.zeros(PARAMETERS)):
        example.query = query
        assert not example.evidence(method).any()
        assert example.cosine(method, 0.0) == 0.0


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_rounding_does_not_lead_a_cosine_out_of_its_range(name):
    example = Example(2)
    method = METHODS[name]
    score = float(example.evidence(method).sum())
    cosine = example.cosine(method, score)
    for sign in (1, -1):
        assert example.cosine(method, sign * score / abs(cosine) * (1 + 1e-9)) in (1, -1)


def test_the_norms_that_are_given_are_not_changed():
    example = Example(3)
    before = {metric: norms.copy() for metric, norms in example.window.token_norms.items()}
    for name in GRADIENT_METHODS:
        example.evidence(METHODS[name])
    for metric, norms in before.items():
        assert np.array_equal(norms, example.window.token_norms[metric])


@pytest.mark.parametrize("name", ADJUSTED)
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_powers_weight_the_inner_adjustment_only(name, power):
    example = Example(4, rule=Rule(Adjustment(power)))
    evidence = example.evidence(METHODS[name])
    assert abs(evidence.sum() - example.by_definition(name)) <= 1e-9 * np.abs(evidence).sum()


def test_without_an_adjustment_haif_is_the_gradient_cosine_times_the_query_norm():
    example = Example(5, rule=Rule(Adjustment(0.0)))
    haif = example.evidence(METHODS["haif"]).sum() / np.linalg.norm(example.query)
    assert abs(haif - example.evidence(METHODS["gradient-cosine"]).sum()) < 1e-12


@pytest.mark.parametrize("name", ADJUSTED)
def test_tokens_are_combined_as_said_and_without_an_outer_norm(name):
    method, example = METHODS[name], Example(6)
    each = example.adjusted(method.metric) @ example.query
    example.rule = Rule(combine="positive")
    positive = example.evidence(method)
    assert np.allclose(positive, np.maximum(each, 0) / example.labels.sum(), rtol=1e-12, atol=0)
    example.rule = Rule(combine="max")
    strongest = example.evidence(method)
    top = int(np.argmax(np.where(example.labels, each, -np.inf)))
    assert abs(strongest.sum() - each[top]) <= 1e-12 * abs(each[top])
    assert np.flatnonzero(strongest).tolist() == [top]
    assert abs(example.cosine(method, each[top]) - each[top] / np.linalg.norm(example.query)) < 1e-9


def test_the_strongest_token_is_a_label_even_where_all_are_against():
    each = np.array([0.0, -3.0, -2.0, 0.0])
    labels = np.array([False, True, True, False])
    assert Rule(combine="max").combined(each, labels).tolist() == [0, 0, -2.0, 0]


def test_a_soft_adjustment_spares_small_gradients_and_bounds_large_ones():
    rule = Rule(Adjustment(quantile=0.5), at_quantile=2.0)
    assert rule.weights(np.array([0.0, 1e-9, 2.0, 1e9])).tolist() == pytest.approx(
        [0.0, 0.5, 0.25, 1e-9]
    )


@pytest.mark.parametrize("text", ["power:1", "power:0", "power:0.75", "soft:0.5", "soft:1"])
def test_adjustments_are_written_as_they_are_read(text):
    assert str(Adjustment.parse(text)) == text


@pytest.mark.parametrize("text", ["", "power", "power:", "power:-1", "power:11", "soft:1.5", "1"])
def test_no_adjustment(text):
    with pytest.raises(UsageError, match="no adjustment") as caught:
        Adjustment.parse(text)
    assert "power:P" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "value", "relative"), [("0.1x", 0.1, True), ("1e-4", 1e-4, False)]
)
def test_dampings_are_absolute_or_relative(text, value, relative):
    damping = DampingSetting.parse(text)
    assert (damping.value, damping.relative) == (value, relative)
    assert DampingSetting.parse(str(damping)) == damping


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1e-4y", "0.1xx"])
def test_no_damping(text):
    with pytest.raises(UsageError, match="no damping"):
        DampingSetting.parse(text)


def test_the_registry_has_every_influence_function_of_the_table():
    names = "layerwise haif haif-t gradient-product gradient-cosine tracincp lissa ek-fac relatif"
    assert list(METHODS) == [*names.split(), "attif", "ahif", "bm25", "bm25-answer"]
    assert all(METHODS[name].name == name and METHODS[name].summary for name in METHODS)
    kinds = {
        LayerwiseMethod: {"layerwise"},
        TrajectoryMethod: {"tracincp", "attif"},
        LexicalMethod: {"bm25", "bm25-answer"},
    }
    for kind, right in kinds.items():
        assert {name for name in METHODS if isinstance(METHODS[name], kind)} == right
    assert {n for n, m in METHODS.items() if m.adjusted} == {"haif", "haif-t", "attif", "ahif"}


def test_methods_are_found_by_name_and_an_unknown_one_is_refused():
    assert [m.name for m in find_methods(DEFAULT_METHOD)] == ["layerwise"]
    assert [m.name for m in find_methods("ek-fac, haif,ek-fac")] == ["ek-fac", "haif"]
    for wrong in ("Haif", "haif,", "haif;ek-fac", "haif-rli"):
        with pytest.raises(UsageError, match="no method") as caught:
            find_methods(wrong)
        assert all(name in caught.value.hint for name in METHODS)


def test_a_rule_that_no_method_follows_is_refused():
    half = Rule(Adjustment(0.5))
    check_rule(find_methods("layerwise,ek-fac,bm25"), PLAIN)
    check_rule(find_methods("ek-fac,haif"), half)
    with pytest.raises(UsageError, match=r"--adjust does nothing for ek-fac, bm25"):
        check_rule(find_methods("ek-fac,bm25"), half)
    with pytest.raises(UsageError, match=r"--adjust does nothing for layerwise"):
        check_rule(find_methods("layerwise"), half)
    with pytest.raises(UsageError, match=r"--combine does nothing for gradient-product"):
        check_rule(find_methods("gradient-product"), Rule(combine="max"))
    soft = Rule(Adjustment(quantile=0.5))
    check_rule(find_methods("haif,haif-t"), soft)
    for name in ("ahif", "attif"):
        with pytest.raises(UsageError, match=f"not the norms that {name}"):
            check_rule(find_methods(name), soft)


def test_a_report_says_what_the_methods_were_told_and_no_more():
    settings = MethodSettings(factors=FactorSettings(damping=DampingSetting(1e-3, False)))
    assert settings.described(find_methods("layerwise,gradient-product,bm25")) == {}
    assert settings.described(find_methods("haif")) == {"adjust": "power:1", "combine": "sum"}
    assert settings.described(find_methods("ek-fac"))["ek-fac damping"] == "0.001"
    assert settings.described(find_methods("tracincp")) == {"checkpoints": None}
    assert settings.options(find_methods("ek-fac,haif")) == ["--damping", "0.001"]
    assert settings.options(find_methods("layerwise,haif,bm25")) == []
