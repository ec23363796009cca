"""Agreement of every method with real leave-one-out retraining (Liu and Yang 2024, Table 1).

Work directory: `training/` with both trainings (see `training`), a stage for every few
retrainings, and one a seed with the scores of all methods. What is finished is never repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.harness.results import WORK_NAME, check_installed, check_out, versions
from haiftrace.bench.harness.stages import Stages
from haiftrace.bench.harness.statistics import Proportion
from haiftrace.bench.indexes import Bench
from haiftrace.bench.loor.agreement import Agreement, Group, agreements
from haiftrace.bench.loor.data import LoorPreset, loor_preset, make_populations
from haiftrace.bench.loor.retraining import Experiment, leave_one_out
from haiftrace.bench.training.answering import Prediction
from haiftrace.bench.training.train import train
from haiftrace.errors import UsageError
from haiftrace.methods import METHODS, find_methods
from haiftrace.progress import Progress

FORMAT = 1
GROUPS = tuple(
    Group(questions, prediction)
    for questions in ("held-out", "trained")
    for prediction in ("correct", "incorrect")
)


@dataclass(frozen=True)
class LoorSettings:
    """What to run.

    Attributes:
        kind: "pii-e" or "pii-cr".
        arch: the model's architecture.
        locale: language of the data.
        methods: names in the registry, with commas between.
        cases: test cases of each group at most.
        seed, seeds: the first seed and how many.
        memory: bytes of a backward pass.
    """

    kind: str
    arch: str = "qwen2"
    locale: str = "en_US"
    methods: str = ",".join(METHODS)
    cases: int = 20
    seed: int = 0
    seeds: int = 1
    memory: int = 512 << 20


@dataclass(frozen=True)
class LoorOutcome:
    """What came of it, over all seeds.

    Attributes:
        prediction: rows of results.json on the answers.
        found: every method against retraining.
        rounding: rows of results.json on how much of a LOOR score is rounding.
        fingerprints: of the stages.
        seconds: of this run.
    """

    settings: LoorSettings
    preset: LoorPreset
    prediction: list[dict[str, Any]]
    found: list[Agreement]
    rounding: list[dict[str, Any]]
    fingerprints: dict[str, str]
    seconds: float


def run_loor(
    settings: LoorSettings, out: Path, progress: Progress, preset: LoorPreset | None = None
) -> LoorOutcome:
    """Runs what is not finished yet.

    Args:
        preset: instead of the data set's own.

    Raises:
        UsageError: settings that make no experiment.
        OutputError: `out` cannot be written.
    """
    began = time.monotonic()
    check_installed("faker")
    preset = preset or loor_preset(settings.kind)
    names = [method.name for method in find_methods(settings.methods)]
    if settings.cases < 1:
        raise UsageError("--cases takes a number of at least 1.")
    check_out(out)
    outcome = LoorOutcome(settings, preset, [], [], [], {}, 0.0)
    with Stages(out / WORK_NAME, versions(), progress) as stages:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            _run_seed(outcome, names, seed, out / WORK_NAME, stages, progress)
    return replace(outcome, seconds=time.monotonic() - began)


def choose_cases(predictions: Sequence[Prediction], most: int, seed: int) -> dict[int, Group]:
    """Which predictions are test cases, and their groups: at most `most` of each, drawn by seed.

    An empty answer has no token whose loss could be traced, and is no test case.
    """
    rng = random.Random(f"{seed}:cases")
    chosen: dict[int, Group] = {}
    for group in GROUPS:
        members = [
            q for q, one in enumerate(predictions) if one.text.strip() and group_of(one) == group
        ]
        chosen |= dict.fromkeys(sorted(rng.sample(members, min(most, len(members)))), group)
    return chosen


def group_of(prediction: Prediction) -> Group:
    """The group of a prediction."""
    return Group(
        "trained" if prediction.question.trained else "held-out",
        "correct" if prediction.correct else "incorrect",
    )


def _run_seed(
    outcome: LoorOutcome,
    names: Sequence[str],
    seed: int,
    work: Path,
    stages: Stages,
    progress: Progress,
) -> None:
    """One seed, whose numbers are added to the outcome."""
    settings, preset = outcome.settings, outcome.preset
    populations = make_populations(preset, settings.locale, seed)
    data, arch, kept = populations.tuning, settings.arch, work / "training"
    before = train(
        populations.before, preset.before, arch, seed, kept, progress, more=populations.texts
    )
    start = before.path("memorised")
    trained = train(data, preset.tuning, arch, seed, kept, progress, start=start)
    predictions = trained.predictions("memorised", data)
    outcome.prediction.extend(_prediction_rows(predictions, seed))
    # All answers' losses cost no more than some, so another number of cases needs no retraining.
    answered = [q for q, one in enumerate(predictions) if one.text.strip()]
    experiment = Experiment(data, preset.tuning, arch, seed, start, trained)
    retrained = leave_one_out(experiment, [predictions[q] for q in answered], stages, progress)
    chosen = choose_cases(predictions, settings.cases, seed)
    rows = [answered.index(q) for q in chosen]
    groups = list(chosen.values())
    cases = [predictions[q] for q in chosen]

    def make(aside: Path) -> None:
        indexes = work / f"{trained.directory.name}-memorised"
        indexes.mkdir(exist_ok=True)
        progress.say(f"Tracing {len(cases)} answers over {len(data.records)} records.")
        bench = Bench(indexes, data, trained, "memorised", settings.memory, progress)
        bench.keep(names)
        leaks = [replace(one.question, answer=one.text) for one in cases]
        scores = bench.scores(leaks, DEFAULT, names)
        np.save(aside / "scores.npy", np.stack([scores[name] for name in names]))

    told = {
        "format": FORMAT,
        "training": trained.directory.name,
        "methods": list(names),
        "cases": [one.question.id for one in cases],
    }
    stage = stages.stage(f"loor-scores-{seed}", told, make)
    outcome.fingerprints[f"seed {seed}"] = stage.fingerprint
    scores = dict(zip(names, np.load(stage.path / "scores.npy"), strict=True))
    sources = [data.sources(one.question) for one in cases]
    loor_QR, rounding_Q = retrained.scores_QR[rows], retrained.rounding_Q[rows]
    outcome.found.extend(agreements(loor_QR, scores, groups, sources, seed))
    outcome.rounding.extend(_rounding_rows(loor_QR, rounding_Q, groups, seed))


def _prediction_rows(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    rows = []
    for questions in ("held-out", "trained"):
        some = [p for p in predictions if p.question.trained == (questions == "trained")]
        right = Proportion(sum(p.correct for p in some), len(some))
        rows.append({"questions": questions, "seed": seed, **right.row()})
    return rows


def _rounding_rows(
    loor_QR: np.ndarray, rounding_Q: np.ndarray, groups: Sequence[Group], seed: int
) -> list[dict[str, Any]]:
    """Medians, in nats, over a group's cases."""
    rows = []
    for group in dict.fromkeys(groups):
        chosen = [q for q, its in enumerate(groups) if its == group]
        scores_QR = loor_QR[chosen]
        rows.append(
            {
                **asdict(group),
                "seed": seed,
                "n": len(chosen),
                "largest": float(np.median(scores_QR.max(1))),
                "typical": float(np.median(np.abs(scores_QR))),
                "rounding": float(np.median(np.abs(rounding_Q[chosen]))),
            }
        )
    return rows
