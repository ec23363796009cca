"""The CLUE bench: samples, training, and the three sweeps of Figure 2 by every method.

A stage a training, and a stage a seed and group of methods with the ranks of all samples for all
tests; between them `index-…/`, which the index itself makes resumable. What is finished is never
repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from haiftrace.bench.clue.corpus import Layout, read_documents
from haiftrace.bench.clue.ranks import SampleIndex, group_of, unique_tests
from haiftrace.bench.clue.samples import Cut, Sweep, plan_sweeps
from haiftrace.bench.clue.training import (
    CluePreset,
    SampleSet,
    SavedCheckpoint,
    find_clue_preset,
    make_samples,
    train_on_samples,
)
from haiftrace.bench.harness.results import WORK_NAME, check_installed, check_out, versions
from haiftrace.bench.harness.stages import Stage, Stages
from haiftrace.bench.harness.statistics import rank_scores
from haiftrace.methods import METHODS, find_methods
from haiftrace.progress import Progress

FORMAT = 1
LEFT_OUT = ("lissa", "bm25")
"""Not among the default methods: LiSSA takes an hour; BM25 of prompt and response is `bm25-answer`,
since a test has no prompt."""

DEFAULT_METHODS = ",".join(name for name in METHODS if name not in LEFT_OUT)
OF_SHIPPED = (64, 128)
"""Samples and their length where the corpus is the one that ships, which has no more text."""

OF_PAPER = (100, 256)
"""The same for any other corpus (Liu and Yang 2024)."""


@dataclass(frozen=True)
class ClueSettings:
    """What to run.

    Attributes:
        corpus: files, globs and directories; none for the sample that ships.
        layout: what a line of a text file is.
        preset: name of the preset.
        arch: the model's architecture.
        samples, length: n and m; see `OF_SHIPPED` and `OF_PAPER`.
        fixed_offset, fixed_length: of panels b and c; see `plan_sweeps`.
        methods: names in the registry, with commas between.
        seed, seeds: the first seed and how many: of weights and order.
        memory: bytes of a backward pass.
    """

    corpus: tuple[str, ...] = ()
    layout: Layout = "auto"
    preset: str = "tiny"
    arch: str = "qwen2"
    samples: int | None = None
    length: int | None = None
    fixed_offset: int | None = None
    fixed_length: int | None = None
    methods: str = DEFAULT_METHODS
    seed: int = 0
    seeds: int = 1
    memory: int = 512 << 20

    def size(self) -> tuple[int, int]:
        """Samples and their length."""
        samples, length = OF_PAPER if self.corpus else OF_SHIPPED
        return (
            samples if self.samples is None else self.samples,
            length if self.length is None else self.length,
        )


@dataclass(frozen=True)
class ClueOutcome:
    """The results, over all seeds.

    Attributes:
        settings, preset: what was run.
        panels: the sweeps, in the order of the figure.
        sweeps: rows of results.json, one a panel, cut, method and seed, and one over all seeds.
        tests: rows on the cuts: how many tests stand in a single sample.
        training: rows on the checkpoints, with the mean loss of the samples.
        fingerprints: of samples and stages.
        seconds: of this run.
    """

    settings: ClueSettings
    preset: CluePreset
    panels: tuple[Sweep, ...]
    sweeps: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    training: list[dict[str, Any]]
    fingerprints: dict[str, str]
    seconds: float


Ranks = Mapping[str, Mapping[Cut, Sequence[int]]]
"""By method and cut, the rank of each sample for its own test."""


def run_clue(settings: ClueSettings, out: Path, progress: Progress) -> ClueOutcome:
    """Runs what is not finished yet.

    Raises:
        UsageError: settings that make no experiment.
        CorpusError: a corpus that cannot be read, or is too small.
        OutputError: `out` cannot be written.
    """
    began = time.monotonic()
    check_installed("matplotlib", "scipy")
    preset = find_clue_preset(settings.preset)
    names = [method.name for method in find_methods(settings.methods)]
    count, length = settings.size()
    panels = plan_sweeps(
        length, fixed_offset=settings.fixed_offset, fixed_length=settings.fixed_length
    )
    cuts = list(dict.fromkeys(cut for sweep in panels for cut in sweep.cuts))
    check_out(out)
    documents = read_documents(settings.corpus, settings.layout)
    sample_set = make_samples(documents, preset, settings.arch, count, length)
    progress.say(f"{count} samples of {length} tokens, {len(cuts) * count} tests.")
    training: list[dict[str, Any]] = []
    ranks_by_seed: dict[int, Ranks] = {}
    fingerprints = {"samples": sample_set.fingerprint}
    with Stages(out / WORK_NAME, versions(), progress) as stages:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            stage, checkpoints = train_on_samples(
                stages, sample_set, preset, settings.arch, seed, progress
            )
            training += [_training_row(checkpoint, seed) for checkpoint in checkpoints]
            fingerprints[f"training, seed {seed}"] = stage.fingerprint
            ranks_by_seed[seed] = _trace(
                stages, stage, sample_set, checkpoints, names, cuts, settings, seed, progress
            )
    tests = [_test_row(cut, sample_set) for cut in cuts]
    sweeps = sweep_rows(panels, ranks_by_seed)
    seconds = time.monotonic() - began
    return ClueOutcome(settings, preset, panels, sweeps, tests, training, fingerprints, seconds)


def sweep_rows(panels: Sequence[Sweep], ranks_by_seed: Mapping[int, Ranks]) -> list[dict[str, Any]]:
    """Rows of results.json from the ranks by seed; "all" puts the tests of all seeds together."""
    methods = list(
        dict.fromkeys(name for by_method in ranks_by_seed.values() for name in by_method)
    )
    rows = []
    for sweep in panels:
        for cut in sweep.cuts:
            for method in methods:
                ranks: dict[int | str, list[int]] = {
                    seed: list(by_method[method][cut]) for seed, by_method in ranks_by_seed.items()
                }
                ranks["all"] = [rank for of_seed in ranks.values() for rank in of_seed]
                rows += [
                    {
                        "panel": sweep.panel,
                        "varied": sweep.varied,
                        **asdict(cut),
                        "method": method,
                        "seed": seed,
                        **rank_scores(of_seed).row(),
                    }
                    for seed, of_seed in ranks.items()
                ]
    return rows


def _trace(
    stages: Stages,
    training: Stage,
    sample_set: SampleSet,
    checkpoints: Sequence[SavedCheckpoint],
    names: Sequence[str],
    cuts: Sequence[Cut],
    settings: ClueSettings,
    seed: int,
    progress: Progress,
) -> Ranks:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)

    @cache  # for all groups; not made where all are finished
    def index() -> SampleIndex:
        work = training.path.parent / f"index-{training.path.name.removeprefix('training-')}"
        return SampleIndex(work, sample_set, checkpoints, settings.memory, progress)

    ranks_by_method: dict[str, dict[Cut, list[int]]] = {}
    for group, members in groups.items():

        def make(directory: Path, members: Sequence[str] = members) -> None:
            ranks = index().ranks(cuts, members)
            (directory / "ranks.json").write_text(json.dumps(ranks), encoding="utf-8")

        stage_settings = {
            "format": FORMAT,
            "training": training.fingerprint,
            "cuts": [[cut.offset, cut.length] for cut in cuts],
            "methods": members,
        }
        stage = stages.stage(f"ranks-{group}-{seed}", stage_settings, make)
        ranks = json.loads((stage.path / "ranks.json").read_text(encoding="utf-8"))
        for name in members:
            ranks_by_method[name] = dict(zip(cuts, ranks[name], strict=True))
    return {name: ranks_by_method[name] for name in names}


def _training_row(checkpoint: SavedCheckpoint, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "step": checkpoint.step,
        "learning_rate": checkpoint.learning_rate,
        "record_loss": checkpoint.record_loss,
    }


def _test_row(cut: Cut, sample_set: SampleSet) -> dict[str, Any]:
    return {
        **asdict(cut),
        "n": len(sample_set.samples),
        "unique": unique_tests(sample_set.samples, cut),
    }
