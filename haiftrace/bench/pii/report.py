"""Tables and figures of the PII benches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.harness.figures import Panel, Series, lines
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import Proportion
from haiftrace.bench.harness.tables import NONE, markdown_table, number, percent
from haiftrace.bench.pii.decoys import BOTH, DECOYS, MOST_LEAKS, over_all_seeds
from haiftrace.bench.pii.gradient_norms import KINDS, mean_shares
from haiftrace.bench.pii.paired_difference import paired_rows, paired_table
from haiftrace.bench.pii.ranking import AVERAGE, rows_of
from haiftrace.bench.pii.run import PiiOutcome
from haiftrace.bench.pii.shortlist_recall import CANDIDATES
from haiftrace.bench.training.presets import FINE_TUNING
from haiftrace.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

PUBLISHED_LEAD = {"pii-e": (20.96, 73.71), "pii-cr": (3.21, 45.93)}
"""Percentage points by which HAIF leads, least and most over the paper's models: its abstract."""


def pii_results(outcome: PiiOutcome) -> Results:
    """Everything for `write_results`."""
    rows = rows_of(outcome.ranks)
    tracing = [row for row in rows if DEFAULT.told().items() <= row.items()]
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
        "parts": outcome.parts,
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
    many = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    model = settings.arch if settings.model is None else f"fine-tuned {Path(settings.model).name}"
    parts = [
        f"# {settings.kind}: {model}, preset {outcome.preset.name}, {many}",
        "Share of answers, in brackets the 95 % Wilson interval. Any record of the subject counts"
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
        parts += [
            "## The same leaks by two methods: difference of top-1",
            "In percentage points, over the leaks that both methods traced; in brackets the 95 %"
            " interval of paired differences (Newcombe 1998, method 10).",
            compared,
        ]
    if ablation:
        parts += [
            "## What matters: top-1 over all answers",
            _ablation(tracing, ablation),
        ]
    if outcome.decoys:
        parts += [
            "## Decoys: the true record before a fake that was never trained on",
            f"At most {MOST_LEAKS} leaks a seed. Each has two fakes, its first record rewritten:"
            " one tells another value under the same name, one the same value under a name that"
            " nobody has. A tie counts against the method.",
            _decoys(over_all_seeds(outcome.decoys)),
        ]
    if outcome.shortlist:
        parts += [
            "## Shortlist: the exact first record among the candidates",
            "Candidates are proposed by one vector a token, of a bit a dimension.",
            _shortlist(outcome.shortlist),
        ]
    if outcome.norms:
        parts += ["## Share of a record's squared gradient norm", _norms(outcome.norms)]
    return "\n\n".join(parts)


def _fewer(rows: Sequence[Row]) -> list[str]:
    """Which methods traced fewer leaks than the others, and how many."""
    every = [row for row in rows if row["seed"] == "all" and row["attribute"] == AVERAGE]
    parts = []
    for regime in _regimes(every):
        here = [row for row in every if row["regime"] == regime]
        most = max(row["n"] for row in here)
        parts += [f"{r['method']} {r['n']} of {most} ({regime})" for r in here if r["n"] < most]
    if not parts:
        return []
    return [f"A method that takes seconds for each leak traces some of them: {', '.join(parts)}."]


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
    cells = []
    for regime in _regimes(rows):
        here = [row for row in rows if row["regime"] == regime]
        shares = [
            percent(
                Proportion(
                    sum(r["successes"] for r in here if r["attribute"] == name),
                    sum(r["n"] for r in here if r["attribute"] == name),
                )
            )
            for name in attributes
        ]
        averages = [row for row in here if row["attribute"] == AVERAGE]
        losses = [
            ", ".join(number(row[key], 2) for row in averages)
            for key in ("value_loss", "record_loss")
        ]
        steps = ", ".join(str(row["step"]) for row in averages)
        leaks = str(sum(row["successes"] for row in averages))
        cells.append([regime, *shares, leaks, *losses, steps])
    columns = [
        "regime",
        *attributes,
        "leaks",
        "loss of value tokens, nats",
        "of all tokens",
        "step",
    ]
    return markdown_table(columns, cells)


def _tracing(rows: Sequence[Row]) -> str:
    """A row a method, a column a regime and attribute."""
    every = [row for row in rows if row["seed"] == "all"]
    attributes = list(dict.fromkeys(row["attribute"] for row in every))
    columns = ["method", *(f"{regime}: {name}" for regime in _regimes(rows) for name in attributes)]
    cells = []
    for method in dict.fromkeys(row["method"] for row in every):
        cells.append([method])
        for regime in _regimes(rows):
            for name in attributes:
                wanted = (regime, method, name)
                found = [r for r in every if (r["regime"], r["method"], r["attribute"]) == wanted]
                cells[-1].append(_top1(found[0]) if found else NONE)
    return markdown_table(columns, cells)


def _regimes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["regime"] for row in rows))


def _top1(row: Row) -> str:
    return percent(Proportion(round((row["top1"] or 0) * row["n"]), row["n"]))


def _ablation(tracing: Sequence[Row], ablation: Sequence[Row]) -> str:
    keys = ("scope", "loss_on", "combine", "pool")
    every = [
        row for row in (*tracing, *ablation) if row["seed"] == "all" and row["attribute"] == AVERAGE
    ]
    methods = [name for name in METHODS if any(row["method"] == name for row in every)]
    cells = []
    regimes = _regimes(every)
    for variation in dict.fromkeys(tuple(row[key] for key in keys) for row in every):
        for method in methods:
            shown = []
            for regime in regimes:
                found = [
                    row
                    for row in every
                    if (row["regime"], row["method"]) == (regime, method)
                    and tuple(row[key] for key in keys) == variation
                ]
                shown.append(_top1(found[0]) if found else NONE)
            if set(shown) != {NONE}:
                chosen = [NONE if value is None else f"{value}" for value in variation]
                cells.append([*chosen, method, *shown])
    return markdown_table([*keys, "method", *regimes], cells, left=5)


def _decoys(rows: Sequence[Row]) -> str:
    every = {(r["regime"], r["decoy"], r["method"]): r for r in rows if r["seed"] == "all"}
    pairs = [(regime, kind) for regime in _regimes(rows) for kind in (*DECOYS, BOTH)]
    cells = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [every.get((*pair, method)) for pair in pairs]
        shares = [NONE if r is None else percent(Proportion(r["successes"], r["n"])) for r in found]
        cells.append([method, *shares])
    return markdown_table(["method", *(": ".join(pair) for pair in pairs)], cells)


def _shortlist(rows: Sequence[Row]) -> str:
    keys = ("regime", "method", "dimension")
    cells = []
    for chosen in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        here = [row for row in rows if tuple(row[key] for key in keys) == chosen]
        shares = []
        for count in CANDIDATES:
            found = [row for row in here if row["candidates"] == count]
            of_all = Proportion(sum(r["successes"] for r in found), sum(r["n"] for r in found))
            shares.append(percent(of_all))
        cells.append([*map(str, chosen), *shares])
    columns = ["regime", "method", "dimensions"]
    return markdown_table([*columns, *(f"{n} candidates" for n in CANDIDATES)], cells, left=2)


def _norms(rows: Sequence[Row]) -> str:
    cells = []
    for regime in _regimes(rows):
        shares = mean_shares([row for row in rows if row["regime"] == regime], "tokens")
        cells.append(
            [regime, *(f"{100 * shares[k]:.0f} %" if k in shares else NONE for k in KINDS)]
        )
    return markdown_table(["regime", "first label", "name", "value", "other"], cells)


def _figures(outcome: PiiOutcome) -> dict[str, Figure]:
    """The distribution of gradient norm over positions, a line a regime."""
    series = []
    for regime in _regimes(outcome.norms):
        here = [row for row in outcome.norms if row["regime"] == regime]
        shares = mean_shares(here, "position")
        if shares:
            series.append(Series(regime, list(shares), [100 * share for share in shares.values()]))
    if not series:
        return {}
    panel = Panel(
        "Where a record's gradient norm is",
        "token position",
        "share of the record's squared norm, %",
        series,
    )
    return {"norm-by-position": lines([panel])}
