"""Tables and the figure of the CLUE bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from haiftrace.bench.clue.run import ClueOutcome
from haiftrace.bench.clue.samples import Cut, Sweep
from haiftrace.bench.harness.figures import Panel, PlotSeries, lines
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import wilson
from haiftrace.bench.harness.tables import NONE, markdown_table, number
from haiftrace.bench.training.checkpoints import MEMORISED_LOSS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_TOP1 = "top-1, %"


def clue_results(outcome: ClueOutcome) -> Results:
    """Everything for `write_results`."""
    settings = outcome.settings
    samples, length = settings.size()
    return Results(
        bench="clue",
        settings={
            **asdict(settings),
            "samples": samples,
            "length": length,
            "recipe": asdict(outcome.preset),
        },
        seeds=range(settings.seed, settings.seed + settings.seeds),
        fingerprints=outcome.fingerprints,
        sections={
            "sweeps": outcome.sweeps,
            "tests": outcome.tests,
            "training": outcome.training,
        },
        table=_document(outcome),
        figures={"sweeps": _figure(outcome)},
        seconds=outcome.seconds,
    )


def _document(outcome: ClueOutcome) -> str:
    settings = outcome.settings
    samples, length = settings.size()
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    corpus = ", ".join(settings.corpus) or "the sample that ships"
    n = samples * settings.seeds
    half = wilson(n // 2, n)
    sections = [
        f"# clue: {samples} samples of {length} tokens, {settings.arch}, preset"
        f" {settings.preset}, {seeds}",
        f"Corpus: {corpus}. {_memorised(outcome)}",
        f"Top-1 in percent: how often the sample that a test is cut from is the first of {samples};"
        f" a tie with another counts against the method. n = {n} in each cell, and the 95 % Wilson"
        f" interval is {100 * (half.high - half.low) / 2:.0f} points to either side at most (those"
        " of all cells are in results.json). The last line says how many of the tests are tokens"
        " that stand in one sample only.",
    ]
    for sweep in outcome.panels:
        sections += [f"## {_title(sweep)}", _table(outcome, sweep)]
    return "\n\n".join(sections)


def _memorised(outcome: ClueOutcome) -> str:
    last = {row["seed"]: row for row in outcome.training}
    losses = ", ".join(number(row["record_loss"], 2) for row in last.values())
    worst = max(row["record_loss"] for row in last.values())
    judged = "memorised" if worst <= MEMORISED_LOSS else "not memorised"
    steps = ", ".join(str(step) for step in sorted({row["step"] for row in last.values()}))
    return f"Mean loss of the samples after {steps} steps: {losses} nats ({judged})."


def _title(sweep: Sweep) -> str:
    if sweep.varied == "offset":
        return f"({sweep.panel}) Tests of {sweep.fixed} tokens, by offset"
    return f"({sweep.panel}) Tests from token {sweep.fixed} on, by length"


def _table(outcome: ClueOutcome, sweep: Sweep) -> str:
    cells = []
    for method, rows in _by_method(outcome, sweep).items():
        cells.append([method, *(_percent(row["top1"]) for row in rows)])
    unique = {Cut(row["offset"], row["length"]): row["unique"] / row["n"] for row in outcome.tests}
    cells.append(["*in one sample only*", *(_percent(unique[cut]) for cut in sweep.cuts)])
    return markdown_table([sweep.varied, *(str(x) for x in _varied(sweep))], cells)


def _percent(top1: float | None) -> str:
    return NONE if top1 is None else f"{100 * top1:.0f}"


def _by_method(outcome: ClueOutcome, sweep: Sweep) -> dict[str, list[Row]]:
    """Rows over all seeds in the order of the cuts."""
    rows: dict[str, list[Row]] = {}
    for row in outcome.sweeps:
        if row["panel"] == sweep.panel and row["seed"] == "all":
            rows.setdefault(row["method"], []).append(row)
    return rows


def _varied(sweep: Sweep) -> Sequence[int]:
    return [getattr(cut, sweep.varied) for cut in sweep.cuts]


def _figure(outcome: ClueOutcome) -> Figure:
    """Figure 2: three panels, a line a method."""
    panels = [
        Panel(
            _title(sweep),
            f"{sweep.varied}, tokens",
            _TOP1,
            [
                PlotSeries(method, _varied(sweep), [100 * (row["top1"] or 0) for row in rows])
                for method, rows in _by_method(outcome, sweep).items()
            ],
            doubling=sweep.varied == "length",
            y_range=(-3, 103),
        )
        for sweep in outcome.panels
    ]
    return lines(panels)
