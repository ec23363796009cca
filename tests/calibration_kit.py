"""What the tests of calibration share: how an index is calibrated, and one that is."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

from haiftrace.calibrate import CalibrationSettings, calibrate
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.store import Index
from haiftrace.trace import Tracer
from tests import kit

MANY = CalibrationSettings(controls=48)


def run(path: Path, settings: CalibrationSettings = MANY, methods: str = "haif") -> None:
    with kit.precisely():
        calibrate(path, kit.checkpoint(), methods, MethodSettings(), settings, Silent())


@pytest.fixture(name="calibrated")
@cache
def calibrated_index() -> Path:
    """An index with controls that no test changes."""
    path = kit.scratch("calibrated")
    shutil.copytree(kit.index_path(), path)
    run(path)
    return path


def opened(path: Path) -> Tracer:
    with kit.precisely():
        return Tracer(Index.open(path), kit.checkpoint())
