"""What the tests of calibration share: how an index is calibrated, and one that is."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.store import Index
from haiftrace.tracing.tracer import Tracer
from tests import kit

MANY = CalibrationSettings(controls=48)
BOTH = ("layerwise", "haif")
"""Of the methods, one that judges layer by layer and one that sums over tokens."""


def run(path: Path, settings: CalibrationSettings = MANY, methods: str = DEFAULT_METHOD) -> None:
    with kit.precisely():
        calibrate(path, kit.checkpoint(), methods, MethodSettings(), settings, Silent())


@pytest.fixture(name="calibrated")
@cache
def calibrated_index() -> Path:
    """An index with controls of both kinds of methods that no test changes."""
    path = kit.scratch("calibrated")
    shutil.copytree(kit.index_path(), path)
    run(path, methods=",".join(BOTH))
    return path


def opened(path: Path) -> Tracer:
    with kit.precisely():
        return Tracer(Index.open(path), kit.checkpoint())
