"""The results of `haiftrace bench speed`: rows of results.json, tables, and cost against length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from haiftrace.bench.harness.figures import Panel, PlotSeries, lines
from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.tables import NONE, markdown_table, number
from haiftrace.bench.speed.clock import Spread, ratios
from haiftrace.bench.speed.operations import FORWARD, LOOP, NORMS, STEP
from haiftrace.bench.speed.peers import NOT_INSTALLED
from haiftrace.bench.speed.processes import CANDIDATES, EPOCH, INDEX
from haiftrace.bench.speed.run import SpeedOutcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = "cost"
_DRAWN = (LOOP, NORMS, "direct: norms, 2,048 projections", STEP, FORWARD)

Rows = Sequence[Mapping[str, Any]]


def speed_results(outcome: SpeedOutcome) -> Results:
    """Everything that goes to --out."""
    rows = [row for measured in outcome.operations for row in _operation_rows(measured)]
    return Results(
        bench="speed",
        settings=asdict(outcome.settings),
        seeds=[0],
        fingerprints={},
        sections={
            "operations": rows,
            "processes": outcome.processes,
            "peers": outcome.peers,
        },
        table=_tables(outcome, rows),
        figures={FIGURE: cost_figure(rows)},
        seconds=outcome.seconds,
    )


def cost_figure(rows: Rows) -> Figure:
    """Seconds a record against its tokens, a panel a model."""

    def panel(model: str) -> Panel:
        of_model = [row for row in rows if row["model"] == model]
        series = []
        for name in _DRAWN:
            points = [row for row in of_model if row["operation"] == name]
            if points:
                tokens = [float(row["tokens"]) for row in points]
                series.append(
                    PlotSeries(name, tokens, [row["seconds"]["median"] for row in points])
                )
        return Panel(model, "Tokens of a record", "Seconds a record", series, logarithmic=True)

    return lines([panel(model) for model in dict.fromkeys(row["model"] for row in rows)])


def _operation_rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    taken = measured["seconds"]
    forward = Spread.of(taken[FORWARD]).median
    peak = measured["peak_gflops"] * 1e9
    # A multiplication and an addition of every weight for every token.
    least = 2 * measured["parameters"] * measured["tokens"] / peak
    rows = []
    for name, seconds in taken.items():
        spread = Spread.of(seconds)
        in_turns = len(seconds) == len(taken[FORWARD])
        multiple = ratios(taken, name, FORWARD) if in_turns else None
        rows.append(
            {
                **{key: measured[key] for key in ("model", "tokens", "records", "dtype", "device")},
                "operation": name,
                "rounds": len(seconds),
                "seconds": spread.row(),
                "forward_passes": multiple.row()
                if multiple
                else {"median": spread.median / forward},
                "training_steps": spread.median / Spread.of(taken[STEP]).median,
                "matrix_products_at_peak": spread.median / least,
            }
        )
    return rows


def _tables(outcome: SpeedOutcome, rows: Rows) -> str:
    settings = outcome.settings
    gflops = [measured["peak_gflops"] for measured in outcome.operations]
    clock = "processor seconds" if outcome.operations[0]["device"] == "cpu" else "seconds"
    parts = [
        "# Speed of the engine and of the commands",
        f"{clock.capitalize()}, {outcome.operations[0]['dtype']}, {settings.threads} thread(s);"
        f" operations take turns, {settings.rounds} rounds at most: medians, in brackets the least"
        " and the greatest ratio of a round. A square matrix product runs at"
        f" {number(max(gflops))} GFLOP/s at most here.",
        "## The engine, a record",
        markdown_table(
            ("Model", "Tokens", "Operation", "s", "forward passes", "training steps"),
            [
                (
                    row["model"],
                    f"{row['tokens']:,}",
                    row["operation"],
                    number(row["seconds"]["median"]),
                    _ratio(row["forward_passes"]),
                    number(row["training_steps"]),
                )
                for row in rows
            ],
            left=3,
        ),
        "## Whole processes",
        _process_table(outcome.processes),
        f"Steps of one trace with {CANDIDATES} candidates, {clock}:",
        _step_table(outcome.processes),
    ]
    if outcome.peers:
        parts += ["## Peers, the same records", _peer_table(outcome)]
    return "\n\n".join(parts)


def _process_table(processes: Rows) -> str:
    cells = []
    for measured in processes:
        for name, cost in measured["processes"].items():
            each = cost["cpu_seconds"]
            cells.append(
                (
                    measured["model"],
                    f"{measured['records']:,} of {measured['tokens']:,}",
                    name,
                    number(each),
                    number(measured["records"] / each) if name in (EPOCH, INDEX) else NONE,
                    _ratio(measured["index_per_epoch"]) if name == INDEX else NONE,
                    f"{cost['peak_megabytes']:,.0f}",
                    number(measured["bytes_a_token"]) if name == INDEX else NONE,
                )
            )
    head = ("Model", "Records of tokens", "Command", "CPU s", "records/s")
    return markdown_table((*head, "index / epoch", "peak, MB", "bytes a token"), cells, left=3)


def _step_table(processes: Rows) -> str:
    names = [name for name in processes[0]["steps"] if name != "tokens"]
    return markdown_table(
        ("Model", "Records of tokens", *names),
        [
            (
                measured["model"],
                f"{measured['records']:,} of {measured['tokens']:,}",
                *(number(measured["steps"][name]) for name in names),
            )
            for measured in processes
        ],
        left=2,
    )


def _peer_table(outcome: SpeedOutcome) -> str:
    """Beside haiftrace's own `index`; a failure stands where else what is computed would."""
    cells = []
    for indexed in outcome.processes:
        index, place = indexed["processes"][INDEX], (indexed["model"], indexed["tokens"])
        about = (indexed["model"], f"{indexed['records']:,} of {indexed['tokens']:,}")
        kept = indexed["bytes_a_token"] * indexed["label_tokens"] / 2**20
        of_index = {**index, "megabytes": kept}
        cells.append(
            (*about, "haiftrace index", "keeps what trace searches", *_costs(of_index, index))
        )
        for peer in outcome.peers:
            if (peer["model"], peer["tokens"]) == place:
                title = f"{peer['title']} {peer['version'] or ''}".rstrip()
                cells.append((*about, title, _done(peer), *_costs(peer, index)))
    head = ("Model", "Records of tokens", "Command", "What", "CPU s", "times haiftrace index")
    return markdown_table((*head, "wall s", "peak, MB", "kept, MB"), cells, left=4)


def _done(peer: Mapping[str, Any]) -> str:
    if peer.get("error") == NOT_INSTALLED:
        return NOT_INSTALLED
    if "error" in peer:
        return f"failed: {peer['error']}"
    if "set_up" not in peer:
        return str(peer["what"])
    return f"{peer['what']}; its build before: {number(peer['set_up']['cpu_seconds'])} CPU s more"


def _costs(measured: Mapping[str, Any], index: Mapping[str, Any]) -> Sequence[str]:
    if "error" in measured:
        return (NONE,) * 5
    return (
        number(measured["cpu_seconds"]),
        number(measured["cpu_seconds"] / index["cpu_seconds"]),
        number(measured["wall_seconds"]),
        f"{measured['peak_megabytes']:,.0f}",
        number(measured["megabytes"]),
    )


def _ratio(spread: Mapping[str, float]) -> str:
    shown = number(spread["median"])
    if "least" not in spread or spread["least"] == spread["greatest"]:
        return shown
    return f"{shown} ({number(spread['least'])} to {number(spread['greatest'])})"
