"""Table of the leave-one-out-retraining bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from haiftrace.bench.harness.results import Results
from haiftrace.bench.harness.statistics import Proportion, pooled
from haiftrace.bench.harness.tables import markdown_table, number, percent, signed
from haiftrace.bench.loor.agreement import LOOR, CaseGroup, agreement_rows
from haiftrace.bench.loor.retraining import ROUNDING
from haiftrace.bench.loor.run import GROUPS, LoorOutcome

Row = dict[str, Any]


def loor_results(outcome: LoorOutcome) -> Results:
    """Everything for `write_results`."""
    settings = outcome.settings
    rows = agreement_rows(outcome.agreements)
    return Results(
        bench=f"loor-{settings.kind}",
        settings={**asdict(settings), "preset": asdict(outcome.preset)},
        seeds=list(range(settings.seed, settings.seed + settings.seeds)),
        fingerprints=outcome.fingerprints,
        sections={
            "prediction": outcome.prediction,
            LOOR: rows,
            "rounding": outcome.rounding,
        },
        table=_document(outcome, rows),
        seconds=outcome.seconds,
    )


def _document(outcome: LoorOutcome, rows: Sequence[Row]) -> str:
    settings, tuning, before = outcome.settings, outcome.preset.tuning, outcome.preset.before
    seeds = f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}"
    records = tuning.subjects * tuning.per_subject
    schedule = tuning.schedule
    sections = [
        f"# Agreement with leave-one-out retraining: {settings.kind}, {settings.arch}, {seeds}",
        f"A model trained on {before.subjects} other subjects is tuned on {records} records about"
        f" {tuning.subjects} subjects and on their trained questions ({schedule.epochs} epochs,"
        f" batch {schedule.batch}), and {records} times more with one record left out: its loss"
        " weighs nothing, seed and batches stay the same. The LOOR score of a record is how much"
        " higher the mean loss of the answer's tokens then is at the end: of the right answer"
        " where the model gave it, else of the wrong answer that it gave.",
        "Agreement: the method's first record is LOOR's first (by chance in"
        f" {100 / records:.1f} % of cases). Rank correlation: Spearman's, over all records, mean"
        " over test cases. Own record first: how often the first record is about the question's"
        " subject. In brackets the 95 % Wilson interval; ties count against the method.",
        "## Prediction accuracy",
        _prediction(outcome.prediction),
    ]
    for group in GROUPS:
        group_rows = [
            r
            for r in rows
            if CaseGroup(r["questions"], r["prediction"]) == group and r["seed"] == "all"
        ]
        sections += [
            f"## {group.questions.capitalize()} questions, {group.prediction} predictions",
            _agreement(group_rows) if group_rows else "No test case.",
        ]
    sections += [
        "## How large LOOR scores are",
        f"Medians over test cases, in nats. Rounding: the change of the loss when no record is left"
        f" out but the first weights differ by {ROUNDING:g} of themselves; scores of this size"
        " order records by chance.",
        _rounding(outcome.rounding),
    ]
    return "\n\n".join(sections)


def _prediction(rows: Sequence[Row]) -> str:
    cells = [
        [
            row["questions"],
            f"{row['successes']} of {row['n']}",
            percent(Proportion(row["successes"], row["n"])),
        ]
        for row in pooled(rows, ["questions"])
    ]
    return markdown_table(["questions", "right", "accuracy"], cells)


def _agreement(rows: Sequence[Row]) -> str:
    cells = [
        [
            "LOOR itself" if row["method"] == LOOR else row["method"],
            percent(_proportion(row["agreement"], row["n"])),
            signed(row["spearman"]),
            percent(_proportion(row["expected"], row["n"])),
            str(row["n"]),
        ]
        for row in rows
    ]
    columns = ["method", "agreement", "rank correlation", "own record first", "n"]
    return markdown_table(columns, cells)


def _proportion(value: float | None, n: int) -> Proportion:
    return Proportion(0, 0) if value is None else Proportion(round(value * n), n)


def _rounding(rows: Sequence[Row]) -> str:
    cells = [
        [
            row["questions"],
            row["prediction"],
            str(row["seed"]),
            number(row["largest"], 2),
            number(row["typical"], 2),
            number(row["rounding"], 2),
            str(row["n"]),
        ]
        for row in rows
    ]
    columns = ["questions", "prediction", "seed", "largest score", "|score|", "rounding", "n"]
    return markdown_table(columns, cells, left=2)
