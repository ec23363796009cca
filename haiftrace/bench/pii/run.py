"""The PII benches: data, training, both regimes, tracing by every method; a stage at a time.

Stages of a seed: the training, and for each regime its comparisons with the rows of everything that
was traced; between them `index-…/`, which the index itself makes resumable. What is finished is
never repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from haiftrace.bench.harness.parallel import Job, cores, run_in_parallel
from haiftrace.bench.harness.results import WORK_NAME, check_installed, check_out, versions
from haiftrace.bench.harness.stages import Stage, Stages
from haiftrace.bench.harness.statistics import Proportion
from haiftrace.bench.pii.comparisons import (
    Comparison,
    SectionRows,
    Tracing,
    comparisons_for,
    read_ranks,
    trace_comparisons,
)
from haiftrace.bench.pii.ranking import AVERAGE, Ranks
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion
from haiftrace.bench.synthetic.llm_biographies import model_biographies
from haiftrace.bench.synthetic.make import Writer, make_data
from haiftrace.bench.synthetic.subjects import Subject
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.bench.training.loop import ON_CPU, Compute
from haiftrace.bench.training.presets import FINE_TUNING, Preset, find_preset
from haiftrace.bench.training.train import train
from haiftrace.checkpoint.files import checkpoint_fingerprint, existing_directory
from haiftrace.device import choose_device, choose_dtype, dtype_name
from haiftrace.errors import UsageError
from haiftrace.methods import METHODS, find_methods
from haiftrace.progress import Progress

FORMAT = 1
RESULT = "rows.json"
REGIMES = ("learned", "memorised")


@dataclass(frozen=True)
class PiiSettings:
    """What to run.

    Attributes:
        kind: "pii-e" or "pii-cr".
        preset: name of the preset; "tiny", or "finetune" where there is a model.
        model: directory of a checkpoint to fine-tune, instead of training from scratch.
        arch: architecture of a model from scratch.
        locale: language of the data.
        subjects, per_subject: instead of the preset's.
        biographer: directory of an instruction model that writes PII-E's biographies.
        methods: names in the registry, with commas between.
        seed, seeds: the first seed and how many.
        ablation: whether the second table is made.
        regimes: which of `REGIMES` are traced.
        memory: bytes of a backward pass.
        device: to train and trace on; "auto" trains new models, which are tiny, on the CPU.
        dtype: of the training's products: "auto" is bfloat16 on a GPU that knows it.
    """

    kind: str
    preset: str | None = None
    model: str | None = None
    arch: str = "qwen2"
    locale: str = "en_US"
    subjects: int | None = None
    per_subject: int | None = None
    biographer: str | None = None
    methods: str = ",".join(METHODS)
    seed: int = 0
    seeds: int = 1
    ablation: bool = True
    regimes: tuple[str, ...] = REGIMES
    memory: int = 512 << 20
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class PiiOutcome:
    """The results, over all seeds.

    Attributes:
        prediction: rows of results.json on the answers.
        ranks: of the sources, by every method and variation.
        shortlist, norms, decoys: rows of results.json.
        timings: the same, on the seconds that each comparison took when it was computed.
        fingerprints: of the stages.
        seconds: of this run.
    """

    settings: PiiSettings
    preset: Preset
    prediction: list[dict[str, Any]]
    ranks: list[Ranks]
    shortlist: list[dict[str, Any]]
    norms: list[dict[str, Any]]
    fingerprints: dict[str, str]
    seconds: float
    decoys: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)


def run_pii(settings: PiiSettings, out: Path, progress: Progress) -> PiiOutcome:
    """Runs what is not finished yet.

    Raises:
        UsageError: settings that make no experiment.
        OutputError: `out` cannot be written.
    """
    began = time.monotonic()
    check_installed("faker", "matplotlib", "pandas", "scipy")
    preset = chosen_preset(settings)
    names = [method.name for method in find_methods(settings.methods)]
    comparisons = comparisons_for(names, settings.ablation)
    start = None if settings.model is None else existing_directory(settings.model)
    compute = chosen_compute(settings)
    check_out(out)
    prediction: list[dict[str, Any]] = []
    ranks: list[Ranks] = []
    shortlist: list[dict[str, Any]] = []
    norms: list[dict[str, Any]] = []
    decoys: list[dict[str, Any]] = []
    timings: list[dict[str, Any]] = []
    fingerprints: dict[str, str] = {}
    with Stages(out / WORK_NAME, versions(), progress) as stages:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            data = _data(stages, settings, preset, seed, progress)
            trained = train(
                data, preset, settings.arch, seed, stages, progress, start=start, compute=compute
            )
            traced = _traced(stages, settings, comparisons, data, trained, seed, progress)
            for regime, kept in traced:
                prediction += _predictions(data, trained, regime, seed)
                for stage in kept:
                    rows = json.loads((stage.path / RESULT).read_text(encoding="utf-8"))
                    ranks += [read_ranks(row) for row in rows.get("ranks", ())]
                    shortlist += rows.get("shortlist", ())
                    norms += rows.get("norms", ())
                    decoys += rows.get("decoys", ())
                    timings += rows.get("seconds", ())
                    fingerprints[stage.name] = stage.fingerprint
    seconds = time.monotonic() - began
    return PiiOutcome(
        settings,
        preset,
        prediction,
        ranks,
        shortlist,
        norms,
        fingerprints,
        seconds,
        decoys,
        timings,
    )


def chosen_preset(settings: PiiSettings) -> Preset:
    """The preset with what the settings say instead."""
    given = settings.model is not None
    name = settings.preset or (FINE_TUNING if given else "tiny")
    preset = find_preset(name, settings.kind, given=given)
    for name in ("subjects", "per_subject"):
        given = getattr(settings, name)
        if given is not None:
            if given < 1:
                raise UsageError(f"--{name.replace('_', '-')} takes a number of at least 1.")
            preset = replace(preset, **{name: given})
    return preset


def chosen_compute(settings: PiiSettings) -> Compute:
    """Where and how precisely to train.

    Raises:
        UsageError: there is no such device, or nothing is trained in that number format.
    """
    if settings.model is None:
        return ON_CPU
    device = choose_device(settings.device)
    dtype = dtype_name(choose_dtype(settings.dtype, device))
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"Nothing is trained in {dtype} here.", "Choose float32 or bfloat16.")
    return Compute(str(device), dtype, recompute=device.type == "cuda")


def _data(
    stages: Stages, settings: PiiSettings, preset: Preset, seed: int, progress: Progress
) -> BenchData:
    """The seed's data; a biographer's texts are a stage, since they take long."""
    writer: Writer | None = None
    if settings.biographer is not None:
        if settings.kind != "pii-e":
            raise UsageError("Only pii-e has biographies.", "Leave out --biographer.")
        source = existing_directory(settings.biographer)

        def write(people: Sequence[Subject]) -> dict[str, list[str]]:
            def make(directory: Path) -> None:
                texts = model_biographies(
                    source, settings.locale, people, preset.per_subject, seed, progress
                )
                (directory / "texts.json").write_text(json.dumps(texts), encoding="utf-8")

            stage_settings = {
                "format": FORMAT,
                "biographer": checkpoint_fingerprint(source),
                "locale": settings.locale,
                "subjects": [[person.name, person.values] for person in people],
                "per_subject": preset.per_subject,
                "seed": seed,
            }
            stage = stages.stage(f"biographies-{seed}", stage_settings, make)
            biographies: dict[str, list[str]] = json.loads(
                (stage.path / "texts.json").read_text(encoding="utf-8")
            )
            return biographies

        writer = write
    return make_data(
        settings.kind, settings.locale, preset.subjects, preset.per_subject, seed, writer
    )


def _predictions(data: BenchData, trained: Trained, regime: str, seed: int) -> list[dict[str, Any]]:
    """Prediction accuracy on held-out questions by attribute, and on average."""
    metrics = trained.metrics(regime)
    correct, total = metrics.held_out_correct, metrics.held_out_total
    accuracies = {name: Proportion(correct.get(name, 0), total[name]) for name in sorted(total)}
    accuracies[AVERAGE] = Proportion(sum(correct.values()), sum(total.values()))
    return [
        {
            "regime": regime,
            "attribute": name,
            "seed": seed,
            **accuracy.row(),
            "step": metrics.step,
            "record_loss": metrics.record_loss,
            "value_loss": metrics.value_loss,
            "trained_share": metrics.trained_accuracy,
            "records": len(data.records),
        }
        for name, accuracy in accuracies.items()
    ]


def _traced(
    stages: Stages,
    settings: PiiSettings,
    comparisons: Sequence[Comparison],
    data: BenchData,
    trained: Trained,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[str, list[Stage]]]:
    """The regimes' stages; tiny models are traced in parallel where there are cores for it."""
    tracings = [
        Tracing(
            data,
            trained,
            regime,
            seed,
            tuple(leaks_of(data, trained, regime)),
            trained.directory.with_name(f"index-{regime}-{seed}-{trained.fingerprint[:16]}"),
            settings.memory,
            settings.device,
        )
        for regime in settings.regimes
    ]
    jobs: list[Job] = []
    for tracing in tracings:
        missing = [c for c in comparisons if _kept(stages, tracing, c) is None]
        if len(missing) < len(comparisons):
            done = f"{len(comparisons) - len(missing)} of {len(comparisons)} comparisons"
            progress.say(f"Kept from an earlier run: {done} of {tracing.regime}, seed {seed}.")
        if missing:
            jobs.append(Job(tracing.regime, trace_comparisons, (tracing, missing)))
    for number, (comparison, rows) in _run(jobs, settings, progress):
        tracing = jobs[number].arguments[0]
        name, depends_on = tracing.stage_name(comparison), tracing.stage_settings(comparison)
        stages.stage(name, depends_on, partial(_write, rows))
    for tracing in tracings:
        kept = (_kept(stages, tracing, comparison) for comparison in comparisons)
        yield tracing.regime, [stage for stage in kept if stage is not None]


def _kept(stages: Stages, tracing: Tracing, comparison: Comparison) -> Stage | None:
    return stages.kept(tracing.stage_name(comparison), tracing.stage_settings(comparison))


def _run(
    jobs: Sequence[Job], settings: PiiSettings, progress: Progress
) -> Iterator[tuple[int, tuple[Comparison, SectionRows]]]:
    """Results by the job's number."""
    if settings.model is None and len(jobs) > 1 and cores() > 1:
        yield from run_in_parallel(jobs, progress)
        return
    for number, job in enumerate(jobs):
        for result in job.run(*job.arguments, progress):
            yield number, result


def _write(rows: SectionRows, directory: Path) -> None:
    (directory / RESULT).write_text(json.dumps(rows), encoding="utf-8")


def leaks_of(data: BenchData, trained: Trained, regime: str) -> list[ProbeQuestion]:
    """Held-out questions that the regime's model answers right."""
    predictions = trained.predictions(regime, data)
    return [p.question for p in predictions if p.correct and not p.question.trained]
