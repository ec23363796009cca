"""Tables and figures of the PII benches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.harness.figures import Panel, PlotSeries, lines
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import Proportion, pooled
from haiftrace.bench.harness.tables import markdown_table, number, percent, pivoted_table
from haiftrace.bench.pii.decoys import MOST_LEAKS, over_all_seeds
from haiftrace.bench.pii.gradient_norms import mean_fractions
from haiftrace.bench.pii.paired_difference import paired_rows, paired_table
from haiftrace.bench.pii.ranking import AVERAGE, ranking_rows
from haiftrace.bench.pii.run import PiiOutcome
from haiftrace.bench.training.presets import FINE_TUNING
from haiftrace.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

KIND_NAMES = {"first": "first label"}
"""Kinds of tokens by another name than `norm_profile`'s."""

PUBLISHED_LEAD = {"pii-e": (20.96, 73.71), "pii-cr": (3.21, 45.93)}
"""Percentage points by which HAIF leads, least and most over the paper's models: its abstract."""


def pii_results(outcome: PiiOutcome) -> Results:
    """Everything for `write_results`."""
    rows = ranking_rows(outcome.ranks)
    tracing = [row for row in rows if DEFAULT.row().items() <= row.items()]
    ablation = [row for row in rows if row not in tracing]
    paired = paired_rows(outcome.ranks)
    settings = outcome.settings
    seeds = list(range(settings.seed, settings.seed + settings.seeds))
    sections = {
        "prediction": outcome.prediction,
        "tracing": tracing,
        "ablation": ablation,
        "paired": paired,
        "decoys": over_all_seeds(outcome.decoys),
        "shortlist": outcome.shortlist,
        "norms": outcome.norms,
        "parts": outcome.timings,
    }
    return Results(
        bench=settings.kind,
        settings={**asdict(settings), "preset": asdict(outcome.preset)},
        seeds=seeds,
        fingerprints=outcome.fingerprints,
        sections=sections,
        table=_document(outcome, tracing, ablation, paired),
        figures=_figures(outcome),
        seconds=outcome.seconds,
    )


def _document(
    outcome: PiiOutcome, tracing: Sequence[Row], ablation: Sequence[Row], paired: Sequence[Row]
) -> str:
    settings = outcome.settings
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    model = settings.arch if settings.model is None else f"fine-tuned {Path(settings.model).name}"
    sections = [
        f"# {settings.kind}: {model}, preset {outcome.preset.name}, {seeds}",
        "Percent of answers, in brackets the 95 % Wilson interval. Any record of the subject counts"
        " as the source; a tie with another record counts against the method.",
        "## Prediction accuracy on held-out questions",
        _prediction(outcome.prediction),
        "## Tracing accuracy, top-1",
        *_fewer(tracing),
        _tracing(tracing),
        *_published(outcome),
    ]
    compared = paired_table(paired)
    if compared is not None:
        sections += [
            "## The same leaks by two methods: difference of top-1",
            "In percentage points, over the leaks that both methods traced; in brackets the 95 %"
            " interval of paired differences (Newcombe 1998, method 10).",
            compared,
        ]
    if ablation:
        sections += [
            "## What matters: top-1 over all answers",
            _ablation(tracing, ablation),
        ]
    if outcome.decoys:
        sections += [
            "## Decoys: the true record before a fake that was never trained on",
            f"At most {MOST_LEAKS} leaks a seed. Each has two fakes, its first record rewritten:"
            " one has another value under the same name, one the same value under a name that"
            " nobody has. A tie counts against the method.",
            _decoys(over_all_seeds(outcome.decoys)),
        ]
    if outcome.shortlist:
        sections += [
            "## Shortlist: the exact first record among the candidates",
            "Candidates are proposed by one vector a token, of a bit a dimension.",
            _shortlist(outcome.shortlist),
        ]
    if outcome.norms:
        sections += ["## Share of a record's squared gradient norm", _norms(outcome.norms)]
    return "\n\n".join(sections)


def _fewer(rows: Sequence[Row]) -> list[str]:
    """Which methods traced fewer leaks than the others, and how many."""
    every = [row for row in rows if row["seed"] == "all" and row["attribute"] == AVERAGE]
    notes = []
    for regime in _regimes(every):
        of_regime = [row for row in every if row["regime"] == regime]
        n = max(row["n"] for row in of_regime)
        notes += [f"{r['method']} {r['n']} of {n} ({regime})" for r in of_regime if r["n"] < n]
    if not notes:
        return []
    return [f"A method that takes seconds for each leak traces fewer of them: {', '.join(notes)}."]


def _published(outcome: PiiOutcome) -> list[str]:
    """What the paper says of its six models, beside a model of one of those sizes."""
    settings = outcome.settings
    if settings.model is None or outcome.preset.name == FINE_TUNING:
        return []
    low, high = PUBLISHED_LEAD[settings.kind]
    return [
        f"Published (Liu and Yang 2024, abstract): over their six models, this size among them,"
        f" HAIF's top-1 accuracy is {low:.2f} to {high:.2f} percentage points above that of the"
        " best other influence function."
    ]


def _prediction(rows: Sequence[Row]) -> str:
    attributes = list(dict.fromkeys(row["attribute"] for row in rows))
    over_seeds = {(r["regime"], r["attribute"]): r for r in pooled(rows, ["regime", "attribute"])}
    cells = []
    for regime in _regimes(rows):
        averages = [r for r in rows if (r["regime"], r["attribute"]) == (regime, AVERAGE)]
        cells.append(
            [
                regime,
                *(_percent(over_seeds[regime, name]) for name in attributes),
                str(over_seeds[regime, AVERAGE]["successes"]),
                *(
                    ", ".join(number(row[key], 2) for row in averages)
                    for key in ("value_loss", "record_loss")
                ),
                ", ".join(str(row["step"]) for row in averages),
            ]
        )
    columns = [
        *("regime", *attributes, "leaks"),
        *("loss of value tokens, nats", "of all tokens", "step"),
    ]
    return markdown_table(columns, cells)


def _tracing(rows: Sequence[Row]) -> str:
    """A row a method, a column a regime and attribute."""
    every = [row for row in rows if row["seed"] == "all"]
    if not every:
        return "No leak was traced."
    return pivoted_table(every, ["method"], ["regime", "attribute"], _top1)


def _regimes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["regime"] for row in rows))


def _top1(row: Row) -> str:
    return percent(Proportion(round((row["top1"] or 0) * row["n"]), row["n"]))


def _percent(row: Row) -> str:
    return percent(Proportion(row["successes"], row["n"]))


def _ablation(tracing: Sequence[Row], ablation: Sequence[Row]) -> str:
    """A row a variation and method, a column a regime."""
    keys = list(DEFAULT.row())
    every = [
        row for row in (*tracing, *ablation) if row["seed"] == "all" and row["attribute"] == AVERAGE
    ]
    variations = list(dict.fromkeys(tuple(row[key] for key in keys) for row in every))
    methods = list(METHODS)
    every.sort(
        key=lambda row: (
            variations.index(tuple(row[key] for key in keys)),
            methods.index(row["method"]),
        )
    )
    return pivoted_table(every, [*keys, "method"], ["regime"], _top1)


def _decoys(rows: Sequence[Row]) -> str:
    every = [row for row in rows if row["seed"] == "all"]
    return pivoted_table(every, ["method"], ["regime", "decoy"], _percent)


def _shortlist(rows: Sequence[Row]) -> str:
    over_seeds = [
        {**row, "dimensions": row["dimension"], "candidates": f"{row['candidates']} candidates"}
        for row in pooled(rows, ["regime", "method", "dimension", "candidates"])
    ]
    index = ["regime", "method", "dimensions"]
    return pivoted_table(over_seeds, index, ["candidates"], _percent, left=2)


def _norms(rows: Sequence[Row]) -> str:
    means = mean_fractions(rows, "tokens")
    labelled = [{**row, "tokens": KIND_NAMES.get(row["tokens"], row["tokens"])} for row in means]
    return pivoted_table(
        labelled, ["regime"], ["tokens"], lambda row: f"{100 * row['share']:.0f} %"
    )


def _figures(outcome: PiiOutcome) -> dict[str, Figure]:
    """The distribution of gradient norm over positions, a line a regime."""
    means = mean_fractions(outcome.norms, "position")
    if not means:
        return {}
    series = []
    for regime in _regimes(means):
        of_regime = [row for row in means if row["regime"] == regime]
        positions = [row["position"] for row in of_regime]
        series.append(PlotSeries(regime, positions, [100 * row["share"] for row in of_regime]))
    panel = Panel(
        "Where a record's gradient norm is",
        "token position",
        "share of the record's squared norm, %",
        series,
    )
    return {"norm-by-position": lines([panel])}
