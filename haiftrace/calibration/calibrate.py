"""Use case: index × methods -> null distributions, by control queries over the index itself.

Each control is traced with its source left out, its near copies and every record that holds its
span too: the highest remaining record is a null sample, of "the source is not in this corpus". A
near copy of the source that holds the span, or where there is none the source itself, is a sample
of "it is". Samples are kept in files; a file is durable before the next is begun, so an interrupted
calibration goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.control_scores import ControlScorer, affordable_controls
from haiftrace.calibration.controls import LENGTHS, Control, sample_controls
from haiftrace.calibration.near_copies import ALIKE, joined_groups, near_copy_groups
from haiftrace.calibration.null_distribution import (
    ALPHA,
    FORMAT,
    GROUPS,
    calibration_name,
    read_groups,
    read_samples,
    sample_tensors,
    settings_of,
)
from haiftrace.methods import (
    DEFAULT_METHOD,
    Method,
    find_methods,
)
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.indexed_model import IndexedModel
from haiftrace.scoring.session import ScoringSession
from haiftrace.store import Index, SupplementWriter
from haiftrace.store.manifest import plain

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

CONTROLS = 512
"""Control queries of an index."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How an index is calibrated.

    Attributes:
        controls: control queries; fewer are sampled from a small corpus.
        fixed_count: even where they cost much more than indexing did, and where the index has a
            calibration with another number.
        seed: of the sampling.
        memory: bytes that the gradients of controls scored together may take.
    """

    controls: int = CONTROLS
    fixed_count: bool = False
    seed: int = 0
    memory: int = 512 << 20


def calibrate(
    path: Path,
    checkpoint: Checkpoint,
    methods: str,
    method_settings: MethodSettings,
    settings: CalibrationSettings,
    progress: Progress,
) -> None:
    """Calibrates the index at `path` for the methods; what it holds already is kept.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or settings.
    """
    chosen = []
    for method in find_methods(methods):
        if method.no_calibration is not None:
            progress.say(f"{method.name} is not calibrated: {method.no_calibration}.")
        elif method.has_verdicts:
            chosen.append(method)
    with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
        session = ScoringSession(IndexedModel(index, checkpoint, settings.memory))
        groups_R = _keep_groups(writer, index, progress)
        controls: list[Control] | None = None
        fresh = []
        for method in chosen:
            name = calibration_name(method.name)
            count = settings.controls
            if not settings.fixed_count:
                count = affordable_controls(session, method, count)
            described = _described(method, method_settings, count, settings.seed)
            if _is_finished(index, name, described, any_number=not settings.fixed_count):
                continue
            if controls is None:
                progress.start("sampling control queries", None)
                controls = sample_controls(index, settings.controls, settings.seed)
            wanted = [control for control in controls if control.number < count]
            scorer = ControlScorer(session, method, method_settings, groups_R, settings.memory)
            files = writer.begin(name, described, _computed_with(index, method))
            # Files may have been of other sizes: what counts is the samples that they hold.
            done = len(read_samples(index, method.name).length_N) if files else 0
            progress.start(f"calibrating {method.name}", float(len(wanted) - done))
            if done:
                progress.say(f"Going on with the calibration of {method.name}.")
            for controls_of_a_file in scorer.files(wanted[done:]):
                samples = scorer.samples(controls_of_a_file, progress)
                about = {"controls": str(len(controls_of_a_file))}
                writer.add_tensors(name, sample_tensors(samples), about)
            writer.finish(name)
            fresh.append(method)
    with Index.open(path, verify=False) as index:
        for method in fresh:
            progress.say(_outcome(index, method))


def controls_for(path: Path, count: int | None, seed: int, otherwise: int) -> tuple[int, int]:
    """How many controls, and their seed.

    Args:
        count: what the user said; None for those that the default method is calibrated with.
        otherwise: where it is not calibrated.
    """
    if count is not None:
        return count, seed
    with Index.open(path, verify=False) as index:
        return calibrated_with(index, DEFAULT_METHOD) or (otherwise, seed)


def calibrated_with(index: Index, method: str) -> tuple[int, int] | None:
    """Controls and seed of an index's calibration for a method; None where it has none."""
    entry = index.supplement(calibration_name(method))
    return None if entry is None else (entry.settings["controls"], entry.settings["seed"])


def _computed_with(index: Index, method: Method) -> list[str]:
    """The supplements that a method's samples are bound to: when one is made anew, they go."""
    others = () if method.name == DEFAULT_METHOD else index.manifest.supplements
    calibrations = calibration_name("")
    return [GROUPS, *(name for name in others if not name.startswith(calibrations))]


def _is_finished(index: Index, name: str, described: dict[str, Any], any_number: bool) -> bool:
    """Whether an index is calibrated as described, with any number of controls or that one."""
    entry = index.supplement(name)
    if entry is None:
        return False
    wanted = plain(described)
    if any_number and "controls" in entry.settings:
        wanted["controls"] = entry.settings["controls"]
    return entry.settings == wanted


def _described(
    method: Method, method_settings: MethodSettings, controls: int, seed: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "controls": controls,
        "seed": seed,
        "lengths": list(LENGTHS),
        "settings": settings_of(method, method_settings),
    }


def _outcome(index: Index, method: Method) -> str:
    samples = read_samples(index, method.name)
    powers = samples.powers()
    if not powers:
        return (
            f"Calibrated {method.name} by {samples.count} control queries: too few for verdicts at"
            f" alpha {ALPHA:g}."
        )
    each = ", ".join(f"{power:.0%} at {length}" for length, power in powers.items())
    return (
        f"Calibrated {method.name} by {samples.count:,} control queries; power at alpha {ALPHA:g}"
        f" by tokens of the response: {each}."
    )


def _keep_groups(writer: SupplementWriter, index: Index, progress: Progress) -> np.ndarray:
    import torch

    has_field = any(value is not None for value in _field_values(index))
    settings = {"format": FORMAT, "alike": ALIKE, "field": has_field}
    if writer.begin(GROUPS, settings) < 0:
        groups = read_groups(index)
        assert groups is not None
        return groups
    writer.restart(GROUPS)
    progress.start("looking for near copies", None)
    groups = near_copy_groups(_texts(index))
    if has_field:
        groups = joined_groups(groups, _field_values(index))
    writer.add_tensors(GROUPS, {"groups": torch.from_numpy(groups)}, {})
    writer.finish(GROUPS)
    return groups


def _texts(index: Index) -> Iterator[str]:
    """The text of each record; where windows overlap, so does it."""
    for _, windows in groupby(index.iter_windows(), key=lambda window: window.record):
        yield "\n".join(window.text for window in windows)


def _field_values(index: Index) -> Iterator[str | None]:
    """The value of each record's group field; nothing where the corpus has no such field."""
    if index.settings["corpus"].get("group_field") is None:
        return
    for table in index.shard_tables(["window", "group"]):
        of_first = table.filter(table.column("window").to_numpy() == 0)
        yield from of_first.column("group").to_pylist()
