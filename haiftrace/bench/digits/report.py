"""What `haiftrace bench digits` found, as rows of results.json, as a table and as Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.bench.digits.run import ESTIMATORS, DigitsOutcome, SeedOutcome
from haiftrace.bench.harness.figures import Panel, Series, scatter
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import Correlation, Interval, pearson, spearman
from haiftrace.bench.harness.tables import markdown_table, number, percent, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"hif": "HIF", "ttif": "TTIF", "sgd": "SGD, exact"}
FIGURE = "figure1"


def digits_results(outcome: DigitsOutcome) -> Results:
    """Everything that goes to --out."""
    settings = asdict(outcome.settings)
    training, pixels, classes = outcome.shape
    settings |= {"source": outcome.source}
    settings |= {"training_records": training, "features": pixels, "classes": classes}
    pools = _pools(outcome)
    return Results(
        bench="digits",
        settings=settings,
        seeds=[seed.seed for seed in outcome.by_seed],
        fingerprints={"data": outcome.fingerprint},
        sections={
            "estimation": [_estimation(pool, seed, e) for seed, pool in pools for e in ESTIMATORS],
            "change": [_change(pool, seed) for seed, pool in pools],
            "lemma1": [_lemma(pool, seed, outcome.settings.epsilon) for seed, pool in pools],
            "training": [_training(seed) for seed in outcome.by_seed],
            "records": [row for seed in outcome.by_seed for row in _records(seed)],
        },
        table=digits_table(outcome),
        figures={FIGURE: error_figure(outcome)},
        seconds=outcome.seconds,
    )


def digits_table(outcome: DigitsOutcome) -> str:
    """The tables as Markdown, over all seeds together."""
    recipe, (training, pixels, classes) = outcome.settings.recipe, outcome.shape
    _, pool = _pools(outcome)[-1]
    n = sum(len(seed.rows) for seed in pool)
    largest = max(float(seed.lemma.max()) for seed in pool)
    typical = float(np.median(np.concatenate([seed.lemma for seed in pool])))
    accuracy = "; ".join(percent(seed.accuracy) for seed in pool)
    change = _correlated(pool, lambda seed: seed.change_norm)
    columns = (
        *("Estimate", "Error", "Relative error", "Cosine"),
        *("Error and gradient norm: Pearson", "Spearman", "Relative error: Spearman"),
    )
    rows = [
        (
            NAMES[name],
            number(_median(pool, lambda seed, name=name: seed.error[name])),
            number(_median(pool, lambda seed, name=name: seed.relative(name))),
            number(_median(pool, lambda seed, name=name: seed.cosine[name])),
            *map(_shown, _correlated(pool, lambda seed, name=name: seed.error[name])),
            _shown(_correlated(pool, lambda seed, name=name: seed.relative(name))[1]),
        )
        for name in ESTIMATORS
    ]
    return "\n\n".join(
        (
            "# Error of influence functions against gradient norm (Figure 1)",
            f"{classes}-class logistic regression on {outcome.source}: {training:,} training"
            f" records, {pixels} pixels, {recipe.steps:,} steps of mini-batch SGD, batch"
            f" {recipe.batch_size}, learning rate {recipe.learning_rate:g}, L2 {recipe.l2:g},"
            f" float64; {_seeds(outcome)}. Accuracy on held-out images: {accuracy}.",
            f"The change of the parameters when a record is left out, predicted and real, over"
            f" n = {n} records (medians; correlations with 95 % intervals). A relative error of 1"
            " is what predicting no change would give.",
            markdown_table(columns, rows),
            f"Size of the real change and gradient norm: Pearson {_shown(change[0])}, Spearman"
            f" {_shown(change[1])}.",
            f"Lemma 1, the exact derivative of SGD's result, against finite differences (weights"
            f" 1 ± {outcome.settings.epsilon:g}): relative difference {number(typical, 2)} in the"
            f" median and at most {number(largest, 2)}, n = {n}.",
        )
    )


def error_figure(outcome: DigitsOutcome) -> Figure:
    """Figure 1: error and relative error against gradient norm, both on logarithmic axes."""
    seeds = outcome.by_seed
    norms = _joined(seeds, lambda seed: seed.gradient_norm)

    def panel(title: str, label: str, value: Any) -> Panel:
        series = [
            Series(NAMES[name], norms, _joined(seeds, lambda seed, name=name: value(seed, name)))
            for name in ESTIMATORS
        ]
        return Panel(title, "Gradient norm of the record", label, series, logarithmic=True)

    return scatter(
        [
            panel("(a) Error", "‖estimated − real change‖", lambda seed, name: seed.error[name]),
            panel(
                "(b) Relative error",
                "error / ‖real change‖",
                lambda seed, name: seed.relative(name),
            ),
        ]
    )


def _pools(outcome: DigitsOutcome) -> list[tuple[int | str, tuple[SeedOutcome, ...]]]:
    """The outcomes to count together: each seed's alone, then all."""
    alone: list[tuple[int | str, tuple[SeedOutcome, ...]]] = [
        (seed.seed, (seed,)) for seed in outcome.by_seed
    ]
    return [*alone, ("all", outcome.by_seed)]


def _estimation(pool: Sequence[SeedOutcome], seed: int | str, name: str) -> dict[str, Any]:
    error = _correlated(pool, lambda one: one.error[name])
    relative = _correlated(pool, lambda one: one.relative(name))
    return {
        "estimator": name,
        "seed": seed,
        "n": error[0].n,
        "median_error": _median(pool, lambda one: one.error[name]),
        "median_relative_error": _median(pool, lambda one: one.relative(name)),
        "median_cosine": _median(pool, lambda one: one.cosine[name]),
        "error_pearson": error[0].row(),
        "error_spearman": error[1].row(),
        "relative_error_pearson": relative[0].row(),
        "relative_error_spearman": relative[1].row(),
    }


def _change(pool: Sequence[SeedOutcome], seed: int | str) -> dict[str, Any]:
    """How the size of the real change goes with the gradient norm."""
    by_value, by_rank = _correlated(pool, lambda one: one.change_norm)
    return {
        "seed": seed,
        "n": by_value.n,
        "median_change": _median(pool, lambda one: one.change_norm),
        "median_gradient_norm": _median(pool, lambda one: one.gradient_norm),
        "pearson": by_value.row(),
        "spearman": by_rank.row(),
    }


def _lemma(pool: Sequence[SeedOutcome], seed: int | str, epsilon: float) -> dict[str, Any]:
    differences = np.concatenate([one.lemma for one in pool])
    return {
        "seed": seed,
        "n": len(differences),
        "epsilon": epsilon,
        "median_relative_difference": float(np.median(differences)),
        "largest_relative_difference": float(differences.max()),
    }


def _training(seed: SeedOutcome) -> dict[str, Any]:
    return {"seed": seed.seed, "accuracy": seed.accuracy.row(), "gradient_norm": seed.rest}


def _records(seed: SeedOutcome) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed.seed,
            "record": int(seed.rows[k]),
            "label": int(seed.labels[k]),
            "gradient_norm": float(seed.gradient_norm[k]),
            "change_norm": float(seed.change_norm[k]),
            "error": {name: float(seed.error[name][k]) for name in ESTIMATORS},
            "cosine": {name: float(seed.cosine[name][k]) for name in ESTIMATORS},
            "lemma1_relative_difference": float(seed.lemma[k]),
        }
        for k in range(len(seed.rows))
    ]


def _joined(pool: Sequence[SeedOutcome], value: Any) -> list[float]:
    return [float(x) for seed in pool for x in value(seed)]


def _median(pool: Sequence[SeedOutcome], value: Any) -> float:
    return float(np.median(_joined(pool, value)))


def _correlated(pool: Sequence[SeedOutcome], value: Any) -> tuple[Correlation, Correlation]:
    """Pearson's and Spearman's correlation of a value with the gradient norm."""
    norms, values = _joined(pool, lambda seed: seed.gradient_norm), _joined(pool, value)
    return pearson(norms, values), spearman(norms, values)


def _shown(correlation: Correlation) -> str:
    between: Interval | None = correlation.interval
    return signed(correlation.value, between)


def _seeds(outcome: DigitsOutcome) -> str:
    seeds = [seed.seed for seed in outcome.by_seed]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
