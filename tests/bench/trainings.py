"""Trainings of the bench's tests: `train` in a work directory that the call holds alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haiftrace.bench.harness.stages import Stages
from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.bench.training.presets import Preset
from haiftrace.bench.training.train import train
from haiftrace.progress import Progress


def train_in(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    work: Path,
    progress: Progress,
    **options: Any,
) -> Trained:
    with Stages(work, {}, progress) as stages:
        return train(data, preset, arch, seed, stages, progress, **options)
