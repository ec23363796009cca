"""Use case: an index with rows gets what is kept beside them, up to its verdicts.

In order: keys by which values are looked up, what methods need, null distributions. What the index
holds already is kept, and an interrupted run goes on from what is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.calibration.calibrate import (
    CONTROLS,
    CalibrationSettings,
    calibrate,
    controls_for,
)
from haiftrace.index.precompute import prepare
from haiftrace.index.value_index import keep_value_keys
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.store import SupplementWriter

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


@dataclass(frozen=True)
class Completion:
    """What is to be kept in an index beside its rows.

    Attributes:
        methods: names, with commas between, whose needs are kept; None for none.
        calibrated: names of the methods that are calibrated.
        settings: those of the methods.
        controls: control queries, 0 for none; None for as many as the default method is calibrated
            with, and where it is not for `otherwise`, or as many of these as cost about what
            indexing did.
        seed: of the controls, where the default method's is not taken.
        memory: bytes that a backward pass may take.
    """

    methods: str | None = None
    calibrated: str = DEFAULT_METHOD
    settings: MethodSettings = field(default_factory=MethodSettings)
    controls: int | None = None
    otherwise: int = CONTROLS
    seed: int = 0
    memory: int = 512 << 20


def complete_index(
    path: Path, checkpoint: Checkpoint, wanted: Completion, progress: Progress
) -> None:
    """Keeps what is wanted in the index at `path`; what is damaged of it is computed again.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or settings.
    """
    with SupplementWriter(path) as writer:
        for name in writer.discard_damaged():
            progress.say(f"Note: {name} was damaged, or made with what was; it is no longer kept.")
    keep_value_keys(path, progress)
    if wanted.methods is not None:
        prepare(path, checkpoint, wanted.methods, wanted.settings, wanted.memory, progress)
        progress.say(f"The index holds what {wanted.methods} needs.")
    controls, seed = controls_for(path, wanted.controls, wanted.seed, wanted.otherwise)
    if controls:
        fixed = wanted.controls is not None
        settings = CalibrationSettings(controls, fixed, seed, wanted.memory)
        calibrate(path, checkpoint, wanted.calibrated, wanted.settings, settings, progress)


def with_default(methods: str | None) -> str:
    """The default method and these, as names with commas between."""
    return ",".join(filter(None, (DEFAULT_METHOD, methods)))
