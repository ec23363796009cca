"""Use case: index × methods -> null distributions, by control queries over the index itself.

Each control is traced with its source left out, its near copies and every record that holds its
span too: the best remaining record is a draw of "the source is not in this corpus". A near copy of
the source that holds the span, or where there is none the source itself, is a draw of "it is".
Controls are taken in blocks; a block's draws are durable before the next is begun, so an
interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.calibration.control_scores import ControlDraws, affordable_controls, blocks
from haiftrace.calibration.controls import LENGTHS, Control, draw_controls
from haiftrace.calibration.near_copies import ALIKE, joined_groups, near_copy_groups
from haiftrace.calibration.null_distribution import (
    ALPHA,
    FORMAT,
    GROUPS,
    calibration_name,
    draw_tensors,
    read_draws,
    read_groups,
    told,
)
from haiftrace.methods import (
    DEFAULT_METHOD,
    SERIES,
    GradientMethod,
    LexicalMethod,
    Method,
    find_methods,
)
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.session import Scorers
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
        controls: control queries; fewer are drawn from a small corpus.
        all_of_them: even where they cost much more than indexing did, and where the index has a
            calibration with another number.
        seed: of the draws.
        memory: bytes that the gradients of questions scored together may take.
    """

    controls: int = CONTROLS
    all_of_them: bool = False
    seed: int = 0
    memory: int = 512 << 20


def calibrate(
    path: Path,
    checkpoint: Checkpoint,
    methods: str,
    told_methods: MethodSettings,
    settings: CalibrationSettings,
    progress: Progress,
) -> None:
    """Calibrates the index at `path` for the methods; what it holds already is kept.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or settings.
    """
    chosen = []
    for method in find_methods(methods):
        if isinstance(method, LexicalMethod):
            continue
        if isinstance(method, GradientMethod) and method.direction == SERIES:
            progress.say(f"{method.name} is not calibrated: it takes a series for every control.")
            continue
        chosen.append(method)
    with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
        scorers = Scorers(index, checkpoint, settings.memory)
        groups = _keep_groups(writer, index, progress)
        controls: list[Control] | None = None
        fresh = []
        for method in chosen:
            name = calibration_name(method.name)
            count = settings.controls
            if not settings.all_of_them:
                count = affordable_controls(scorers, method, count)
            described = _described(method, told_methods, count, settings.seed)
            if _is_finished(index, name, described, any_number=not settings.all_of_them):
                continue
            if controls is None:
                progress.start("drawing control queries", None)
                controls = draw_controls(index, settings.controls, settings.seed)
            mine = [control for control in controls if control.number < count]
            drawing = ControlDraws(scorers, method, told_methods, groups, settings.memory)
            files = writer.begin(name, described)
            # Blocks may have been of other sizes: what counts is the draws that they hold.
            done = len(read_draws(index, method.name).length_N) if files else 0
            progress.start(f"calibrating {method.name}", float(len(mine) - done))
            if done:
                progress.say(f"Going on with the calibration of {method.name}.")
            for block in blocks(mine[done:], method):
                draws = drawing.draws(block, progress)
                writer.add_tensors(name, draw_tensors(draws), {"controls": str(len(block))})
            writer.finish(name)
            fresh.append(method)
    with Index.open(path, verify=False) as index:
        for method in fresh:
            progress.say(_outcome(index, method))


def controls_for(path: Path, asked: int | None, seed: int, otherwise: int) -> tuple[int, int]:
    """How many controls, and their seed.

    Args:
        asked: what the user said; None for those that the default method is calibrated with.
        otherwise: where it is not calibrated.
    """
    if asked is not None:
        return asked, seed
    with Index.open(path, verify=False) as index:
        return calibrated_with(index, DEFAULT_METHOD) or (otherwise, seed)


def calibrated_with(index: Index, method: str) -> tuple[int, int] | None:
    """Controls and seed of an index's calibration for a method; None where it has none."""
    entry = index.supplement(calibration_name(method))
    return None if entry is None else (entry.settings["controls"], entry.settings["seed"])


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
    method: Method, told_methods: MethodSettings, controls: int, seed: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "controls": controls,
        "seed": seed,
        "lengths": list(LENGTHS),
        "told": told(method, told_methods),
    }


def _outcome(index: Index, method: Method) -> str:
    draws = read_draws(index, method.name)
    powers = draws.powers()
    if not powers:
        return (
            f"Calibrated {method.name} by {draws.count} control queries: too few for verdicts at"
            f" alpha {ALPHA:g}."
        )
    each = ", ".join(f"{share:.0%} at {length}" for length, share in powers.items())
    return (
        f"Calibrated {method.name} by {draws.count:,} control queries; power at alpha {ALPHA:g} by"
        f" tokens of the response: {each}."
    )


def _keep_groups(writer: SupplementWriter, index: Index, progress: Progress) -> np.ndarray:
    import torch

    fields = _field_values(index)
    settings = {"format": FORMAT, "alike": ALIKE, "field": any(f is not None for f in fields)}
    if writer.begin(GROUPS, settings) < 0:
        groups = read_groups(index)
        assert groups is not None
        return groups
    writer.restart(GROUPS)
    progress.start("looking for near copies", None)
    groups = joined_groups(near_copy_groups(_texts(index)), fields)
    writer.add_tensors(GROUPS, {"groups": torch.from_numpy(groups)}, {})
    writer.finish(GROUPS)
    return groups


def _texts(index: Index) -> Iterator[str]:
    """The text of each record; where windows overlap, so does it."""
    for _, windows in groupby(index.iter_windows(), key=lambda window: window.record):
        yield "\n".join(window.text for window in windows)


def _field_values(index: Index) -> list[str | None]:
    if index.settings["corpus"].get("group_field") is None:
        return [None] * index.manifest.totals.records
    return [window.group for window in index.iter_windows() if window.window == 0]
