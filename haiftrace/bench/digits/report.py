"""The results of `haiftrace bench digits`, as rows of results.json, as a table and as Figure 1."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from haiftrace.bench.digits.run import ESTIMATORS, DigitsOutcome, SeedOutcome
from haiftrace.bench.harness.figures import Panel, PlotSeries, scatter
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import Correlation, pearson, spearman
from haiftrace.bench.harness.tables import markdown_table, number, percent, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

NAMES = {"hif": "HIF", "ttif": "TTIF", "sgd": "SGD, exact"}
FIGURE = "figure1"


def digits_results(outcome: DigitsOutcome) -> Results:
    """Everything that goes to --output."""
    training, pixels, classes = outcome.shape
    settings = {
        **asdict(outcome.settings),
        "source": outcome.source,
        "training_records": training,
        "features": pixels,
        "classes": classes,
    }
    records = _records(outcome)
    pools = [*records.groupby("seed", sort=False), ("all", records)]
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
            "records": [_record_row(row) for row in records.to_dict("records")],
        },
        table=_tables(outcome, records),
        figures={FIGURE: error_figure(records)},
        seconds=outcome.seconds,
    )


def error_figure(records: DataFrame) -> Figure:
    """Figure 1: error and relative error against gradient norm, both on logarithmic axes.

    Args:
        records: a row a record, with "gradient_norm" and each estimator's "error_…" and
            "relative_…".
    """
    norms = records["gradient_norm"].tolist()

    def panel(title: str, label: str, kind: str) -> Panel:
        series = [
            PlotSeries(NAMES[name], norms, records[f"{kind}_{name}"].tolist())
            for name in ESTIMATORS
        ]
        return Panel(title, "Gradient norm of the record", label, series, logarithmic=True)

    return scatter(
        [
            panel("(a) Error", "‖estimated − real change‖", "error"),
            panel("(b) Relative error", "error / ‖real change‖", "relative"),
        ]
    )


def _records(outcome: DigitsOutcome) -> DataFrame:
    """A row a record that was left out, over all seeds."""
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "seed": seed.seed,
                "record": seed.rows,
                "label": seed.labels,
                "gradient_norm": seed.gradient_norm,
                "change_norm": seed.change_norm,
                "lemma": seed.lemma,
                **{f"error_{name}": seed.error[name] for name in ESTIMATORS},
                **{f"relative_{name}": seed.relative(name) for name in ESTIMATORS},
                **{f"cosine_{name}": seed.cosine[name] for name in ESTIMATORS},
            }
        )
        for seed in outcome.by_seed
    ]
    return pd.concat(frames, ignore_index=True)


def _tables(outcome: DigitsOutcome, records: DataFrame) -> str:
    """The tables as Markdown, over all seeds together."""
    recipe, (training, pixels, classes) = outcome.settings.recipe, outcome.shape
    n = len(records)
    change = _correlated(records, "change_norm")
    accuracy = "; ".join(percent(seed.accuracy) for seed in outcome.by_seed)
    columns = (
        *("Estimate", "Error", "Relative error", "Cosine"),
        *("Error and gradient norm: Pearson", "Spearman", "Relative error: Spearman"),
    )
    rows = [
        (
            NAMES[name],
            *(
                number(_median(records, f"{kind}_{name}"))
                for kind in ("error", "relative", "cosine")
            ),
            *map(_shown, _correlated(records, f"error_{name}")),
            _shown(_correlated(records, f"relative_{name}")[1]),
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
            f" 1 ± {outcome.settings.epsilon:g}): relative difference"
            f" {number(_median(records, 'lemma'), 2)} in the median and at most"
            f" {number(float(records['lemma'].max()), 2)}, n = {n}.",
        )
    )


def _estimation(pool: DataFrame, seed: int | str, name: str) -> dict[str, Any]:
    error = _correlated(pool, f"error_{name}")
    relative = _correlated(pool, f"relative_{name}")
    return {
        "estimator": name,
        "seed": seed,
        "n": len(pool),
        "median_error": _median(pool, f"error_{name}"),
        "median_relative_error": _median(pool, f"relative_{name}"),
        "median_cosine": _median(pool, f"cosine_{name}"),
        "error_pearson": error[0].row(),
        "error_spearman": error[1].row(),
        "relative_error_pearson": relative[0].row(),
        "relative_error_spearman": relative[1].row(),
    }


def _change(pool: DataFrame, seed: int | str) -> dict[str, Any]:
    """How the size of the real change goes with the gradient norm."""
    by_value, by_rank = _correlated(pool, "change_norm")
    return {
        "seed": seed,
        "n": len(pool),
        "median_change": _median(pool, "change_norm"),
        "median_gradient_norm": _median(pool, "gradient_norm"),
        "pearson": by_value.row(),
        "spearman": by_rank.row(),
    }


def _lemma(pool: DataFrame, seed: int | str, epsilon: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "n": len(pool),
        "epsilon": epsilon,
        "median_relative_difference": _median(pool, "lemma"),
        "largest_relative_difference": float(pool["lemma"].max()),
    }


def _training(seed: SeedOutcome) -> dict[str, Any]:
    return {"seed": seed.seed, "accuracy": seed.accuracy.row(), "gradient_norm": seed.rest}


def _record_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in ("seed", "record", "label", "gradient_norm", "change_norm")},
        "error": {name: row[f"error_{name}"] for name in ESTIMATORS},
        "cosine": {name: row[f"cosine_{name}"] for name in ESTIMATORS},
        "lemma1_relative_difference": row["lemma"],
    }


def _median(pool: DataFrame, column: str) -> float:
    return float(pool[column].median())


def _correlated(pool: DataFrame, column: str) -> tuple[Correlation, Correlation]:
    """Pearson's and Spearman's correlation of a column with the gradient norm."""
    norms, values = pool["gradient_norm"], pool[column]
    return pearson(norms, values), spearman(norms, values)


def _shown(correlation: Correlation) -> str:
    return signed(correlation.value, correlation.interval)


def _seeds(outcome: DigitsOutcome) -> str:
    seeds = [seed.seed for seed in outcome.by_seed]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
