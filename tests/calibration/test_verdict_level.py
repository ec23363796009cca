"""Verdicts keep their level on questions whose source is not in the index, and have power."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.calibration.verdict_level import LENGTHS, measure, trained_model

SEEDS = {"pii-e": (3, 4), "pii-cr": (3, 6)}
"""Where most was falsely traced (PII-CR, 3), and others."""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are trained once for all methods."""
    return tmp_path_factory.mktemp("training")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "power"),
    [
        ("pii-e", "layerwise", 0.95),
        ("pii-cr", "layerwise", 0.8),
        ("pii-e", "haif", 0.3),
        ("pii-cr", "haif", 0.05),
    ],
)
def test_false_accusations_at_one_percent(
    kind: str, method: str, power: float, trainings: Path, tmp_path: Path
) -> None:
    """At alpha 0.01 at most 2 % of the questions without a source, for each length of response.

    PII-E has four biographies a subject, PII-CR three, all of them left out together.
    """
    found: dict[str, Counter[str]] = {}
    for seed in SEEDS[kind]:
        data, trained = trained_model(kind, seed, trainings)
        for regime in ("learned", "memorised"):
            out = tmp_path / f"{seed}-{regime}"
            out.mkdir()
            for name, counts in measure(data, trained, regime, out, method, seed=seed).items():
                found.setdefault(name, Counter()).update(counts)
    for length in LENGTHS:
        absent = found.get(f"{length or 'all'} absent")
        if absent is None:
            assert (kind, length) == ("pii-cr", 10)  # its answers are shorter
            continue
        assert absent["n"] >= (500 if length is None else 250)
        assert absent["traced"] <= 0.02 * absent["n"], (length, absent)
        assert absent["inconclusive"] == 0
    there = found["all held-out"]
    assert there["traced right"] >= power * there["n"]
    assert there["traced right"] >= 0.9 * there["traced"]
