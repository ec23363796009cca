"""The PII benches' tiny preset cut down to what trains in seconds."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.bench.training.loop import Schedule
from haiftrace.bench.training.models import Shape
from haiftrace.bench.training.presets import find_preset

SHAPE = Shape(layers=1, width=32, inner=64, heads=2, context=256)


def tiny(kind: str):
    preset = find_preset("tiny", kind)
    schedule = Schedule(epochs=6, batch=5, learning_rate=1e-2, weight_decay=0.1)
    return replace(
        preset, subjects=5, per_subject=2, vocabulary=500, shape=SHAPE, schedule=schedule, kept=3
    )
