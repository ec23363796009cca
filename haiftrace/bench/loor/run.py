"""Agreement of every method with real leave-one-out retraining (Liu and Yang 2024, Table 1).

Stages of a seed: both trainings, every few retrainings, and the scores of all methods. Between
them `index-…/`, which the index itself makes resumable. What is finished is never repeated.
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
from haiftrace.bench.loor.agreement import Agreement, CaseGroup, agreements
from haiftrace.bench.loor.data import LoorPreset, loor_preset, make_populations
from haiftrace.bench.loor.retraining import Experiment, leave_one_out
from haiftrace.bench.training.answering import Prediction
from haiftrace.bench.training.train import train
from haiftrace.errors import UsageError
from haiftrace.methods import METHODS, find_methods
from haiftrace.progress import Progress

FORMAT = 1
GROUPS = tuple(
    CaseGroup(questions, prediction)
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
    """The results, over all seeds.

    Attributes:
        prediction: rows of results.json on the answers.
        agreements: every method against retraining.
        rounding: rows of results.json on how much of a LOOR score is rounding.
        fingerprints: of the stages.
        seconds: of this run.
    """

    settings: LoorSettings
    preset: LoorPreset
    prediction: list[dict[str, Any]]
    agreements: list[Agreement]
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
    check_installed("faker", "pandas", "scipy")
    preset = preset or loor_preset(settings.kind)
    names = [method.name for method in find_methods(settings.methods)]
    if settings.cases < 1:
        raise UsageError("--cases takes a number of at least 1.")
    check_out(out)
    outcome = LoorOutcome(settings, preset, [], [], [], {}, 0.0)
    with Stages(out / WORK_NAME, versions(), progress) as stages:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            _run_seed(outcome, names, seed, stages, progress)
    return replace(outcome, seconds=time.monotonic() - began)


def choose_cases(predictions: Sequence[Prediction], limit: int, seed: int) -> dict[int, CaseGroup]:
    """Which predictions are test cases, and their groups: at most `limit` of each, sampled by seed.

    An empty answer has no token whose loss could be traced, and is no test case.
    """
    rng = random.Random(f"{seed}:cases")
    chosen: dict[int, CaseGroup] = {}
    for group in GROUPS:
        members = [q for q, p in enumerate(predictions) if p.text.strip() and group_of(p) == group]
        chosen |= dict.fromkeys(sorted(rng.sample(members, min(limit, len(members)))), group)
    return chosen


def group_of(prediction: Prediction) -> CaseGroup:
    """The group of a prediction."""
    return CaseGroup(
        "trained" if prediction.question.trained else "held-out",
        "correct" if prediction.correct else "incorrect",
    )


def _run_seed(
    outcome: LoorOutcome,
    names: Sequence[str],
    seed: int,
    stages: Stages,
    progress: Progress,
) -> None:
    """Runs a seed, whose numbers are added to the outcome."""
    settings, preset = outcome.settings, outcome.preset
    populations = make_populations(preset, settings.locale, seed)
    data, arch = populations.tuning, settings.arch
    before = train(
        populations.before, preset.before, arch, seed, stages, progress, more=populations.texts
    )
    start = before.path("memorised")
    trained = train(data, preset.tuning, arch, seed, stages, progress, start=start)
    predictions = trained.predictions("memorised", data)
    outcome.prediction.extend(_prediction_rows(predictions, seed))
    # The losses of all answers cost no more than a few, so other cases need no retraining.
    answered = [q for q, p in enumerate(predictions) if p.text.strip()]
    experiment = Experiment(data, preset.tuning, arch, seed, start, trained)
    retrained = leave_one_out(experiment, [predictions[q] for q in answered], stages, progress)
    chosen = choose_cases(predictions, settings.cases, seed)
    rows = [answered.index(q) for q in chosen]
    groups = list(chosen.values())
    cases = [predictions[q] for q in chosen]

    def make(directory: Path) -> None:
        indexes = trained.directory.with_name(f"index-{seed}-{trained.fingerprint[:16]}")
        indexes.mkdir(exist_ok=True)
        progress.say(f"Tracing {len(cases)} answers over {len(data.records)} records.")
        bench = Bench(indexes, data, trained, "memorised", settings.memory, progress)
        bench.prepare(names)
        leaks = [replace(case.question, answer=case.text) for case in cases]
        scores = bench.scores(leaks, DEFAULT, names)
        np.save(directory / "scores.npy", np.stack([scores[name] for name in names]))

    stage_settings = {
        "format": FORMAT,
        "training": trained.fingerprint,
        "methods": list(names),
        "cases": [case.question.id for case in cases],
    }
    stage = stages.stage(f"loor-scores-{seed}", stage_settings, make)
    outcome.fingerprints[f"seed {seed}"] = stage.fingerprint
    scores = dict(zip(names, np.load(stage.path / "scores.npy"), strict=True))
    sources = [data.sources(case.question) for case in cases]
    loor_QR, rounding_Q = retrained.scores_QR[rows], retrained.rounding_Q[rows]
    outcome.agreements.extend(agreements(loor_QR, scores, groups, sources, seed))
    outcome.rounding.extend(_rounding_rows(loor_QR, rounding_Q, groups, seed))


def _prediction_rows(predictions: Sequence[Prediction], seed: int) -> list[dict[str, Any]]:
    rows = []
    for questions in ("held-out", "trained"):
        answers = [p for p in predictions if p.question.trained == (questions == "trained")]
        accuracy = Proportion(sum(p.correct for p in answers), len(answers))
        rows.append({"questions": questions, "seed": seed, **accuracy.row()})
    return rows


def _rounding_rows(
    loor_QR: np.ndarray, rounding_Q: np.ndarray, groups: Sequence[CaseGroup], seed: int
) -> list[dict[str, Any]]:
    """Medians, in nats, over a group's cases."""
    rows = []
    for group in dict.fromkeys(groups):
        cases = [q for q, case_group in enumerate(groups) if case_group == group]
        scores_QR = loor_QR[cases]
        rows.append(
            {
                **asdict(group),
                "seed": seed,
                "n": len(cases),
                "largest": float(np.median(scores_QR.max(1))),
                "typical": float(np.median(np.abs(scores_QR))),
                "rounding": float(np.median(np.abs(rounding_Q[cases]))),
            }
        )
    return rows
