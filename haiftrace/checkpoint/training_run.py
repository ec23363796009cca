"""The checkpoints of a training run and their learning rates, as `--checkpoints` names them.

Nothing of a checkpoint is opened here but its trainer_state.json; no torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haiftrace.checkpoint.files import read_json
from haiftrace.errors import CheckpointError, UsageError

STATE = "trainer_state.json"
BY_HAND = "Give each checkpoint with its learning rate: --checkpoints PATH:LR,PATH:LR"

_TRAINER_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class RunStep:
    """A directory of weights and the learning rate η in force when they were saved.

    Attributes:
        path: the absolute directory.
        learning_rate: η > 0, finite.
        step: the number of optimiser steps before it; None where only a path was given.
    """

    path: Path
    learning_rate: float
    step: int | None


@dataclass(frozen=True)
class TrainingRun:
    """The steps of a run in order of training, and what to report to the user about them."""

    steps: tuple[RunStep, ...]
    notes: tuple[str, ...] = ()


def read_run(spec: str) -> TrainingRun:
    """The checkpoints that `--checkpoints` names.

    Args:
        spec: a directory of the Hugging Face Trainer (subdirectories checkpoint-S, each with a
            trainer_state.json), or a list PATH:LR,PATH:LR in order of training. A path may contain
            a colon, in a list no comma; a directory that exists under the full name is meant.

    A checkpoint of the Trainer whose rate is logged as 0 at its own step is left out, with a note:
    in sums over checkpoints weighted by the rate it counts for nothing. In a list, 0 is an error.

    Raises:
        UsageError: the list makes no sense.
        CheckpointError: there is no such directory, or a learning rate is missing or impossible.
    """
    directory = Path(spec).expanduser()
    if spec.strip() and directory.is_dir():
        return _trainer_run(directory.resolve())
    if ":" not in spec and "," not in spec:
        raise CheckpointError(
            f"There is no directory {spec!r} for --checkpoints.",
            "Give the output directory of the Hugging Face Trainer, or PATH:LR,PATH:LR.",
        )
    return TrainingRun(_listed(spec))


def _listed(spec: str) -> tuple[RunStep, ...]:
    steps: list[RunStep] = []
    for entry in map(str.strip, spec.split(",")):
        place, colon, rate = (field.strip() for field in entry.rpartition(":"))
        if not entry or (colon and not place):
            raise UsageError(f"An entry of --checkpoints names no path: {spec!r}.", BY_HAND)
        if not colon or Path(entry).expanduser().is_dir():
            raise UsageError(
                f"The checkpoint {entry!r} is given without its learning rate.", BY_HAND
            )
        path = Path(place).expanduser()
        if not path.is_dir():
            raise CheckpointError(
                f"There is no directory {place!r}, which --checkpoints names.",
                "An entry is PATH:LR; a path in the list cannot contain a comma.",
            )
        learning_rate = _listed_rate(place, rate)
        if path.resolve() in (step.path for step in steps):
            raise UsageError(
                f"The checkpoint {place!r} is named twice in --checkpoints; it would count twice.",
                "Name each checkpoint once.",
            )
        steps.append(RunStep(path.resolve(), learning_rate, None))
    return tuple(steps)


def _listed_rate(place: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise UsageError(
            f"The learning rate of {place!r} is not a number: {text!r}.", BY_HAND
        ) from None
    if not (math.isfinite(rate) and rate >= 0):
        raise UsageError(
            f"The learning rate of {place!r} is {text}; it must be positive and finite.", BY_HAND
        )
    if rate == 0:
        raise UsageError(
            f"The learning rate of {place!r} is 0, so the checkpoint would count for nothing.",
            "Leave it out of --checkpoints, or give the rate it was trained with.",
        )
    return rate


def _trainer_run(directory: Path) -> TrainingRun:
    directories: dict[int, Path] = {}
    ignored: list[str] = []
    for place in sorted(directory.glob("checkpoint-*")):
        matched = _TRAINER_NAME.fullmatch(place.name)
        if matched is None or not place.is_dir():
            ignored.append(place.name)  # as the Trainer itself does
        else:
            directories[int(matched[1])] = place.resolve()
    if not directories:
        raise CheckpointError(
            f"{directory} holds no checkpoint-STEP directory of the Hugging Face Trainer"
            f"{f' ({ignored[0]} is none)' if ignored else ''}.",
            "Give the output directory of a training run (save_strategy='steps' or 'epoch'), or "
            "PATH:LR,PATH:LR.",
        )
    steps, left_out, earlier = [], [], []
    for number, place in sorted(directories.items()):
        logged, rate = _logged_rate(place, number)
        if rate == 0:
            left_out.append(place.name)
            continue
        if logged != number:
            earlier.append(f"{place.name} (step {logged})")
        steps.append(RunStep(place, rate, number))
    if not steps:
        raise CheckpointError(
            f"Every checkpoint in {directory} has the learning rate 0 in its {STATE}.", BY_HAND
        )
    notes = (
        ("Ignored, as their names are no checkpoint-STEP of the Trainer", ignored),
        ("Left out, as their learning rate is 0 and they count for nothing", left_out),
        ("Learning rates known only from the last log before the checkpoint", earlier),
    )
    return TrainingRun(
        tuple(steps), tuple(f"{what}: {', '.join(names)}." for what, names in notes if names)
    )


def _logged_rate(directory: Path, number: int) -> tuple[int, float]:
    """The last step up to `number` at which a learning rate was logged, and the rate.

    transformers 5 logs the rate of the update that led to that step, earlier ones that of the next.
    """
    file = directory / STATE
    if not file.is_file():
        raise CheckpointError(
            f"{directory} has no {STATE}, so its learning rate is not known.", BY_HAND
        )
    state = read_json(file)
    if state.get("global_step", number) != number:
        raise CheckpointError(
            f"{file} is of step {state['global_step']!r}, not of step {number}.",
            f"Give the directory back the name that the Trainer gave it. Or: {BY_HAND}",
        )
    history = state.get("log_history")
    if not isinstance(history, list):
        raise CheckpointError(f"{file} has no log_history, hence no learning rate.", BY_HAND)
    # A run that was resumed may log a step again: the later entry is what counts.
    rates = {
        _logged_step(file, entry): entry["learning_rate"]
        for entry in history
        if isinstance(entry, dict) and "learning_rate" in entry
    }
    logged = max((step for step in rates if step <= number), default=None)
    if logged is None:
        raise CheckpointError(f"{file} logs no learning rate at step {number} or before.", BY_HAND)
    rate = _checked_rate(file, logged, rates[logged])
    if rate == 0 and logged != number:
        # The first entry of a warm-up, say: nothing tells the rate at the checkpoint itself.
        raise CheckpointError(
            f"{file} does not tell the learning rate at step {number}: the last one logged before "
            f"it is 0, at step {logged}.",
            BY_HAND,
        )
    return logged, rate


def _logged_step(file: Path, entry: dict[str, Any]) -> int:
    step = entry.get("step")
    if isinstance(step, bool) or not isinstance(step, int):
        raise CheckpointError(f"{file} logs a learning rate without its step.", BY_HAND)
    return step


def _checked_rate(file: Path, step: int, value: Any) -> float:
    try:
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if number and math.isfinite(value) and value >= 0:
            return float(value)
    except OverflowError:  # an integer of hundreds of digits
        pass
    raise CheckpointError(
        f"{file} logs at step {step} the learning rate {str(value)[:40]!r}; a rate is a finite "
        "number, 0 or more.",
        BY_HAND,
    )
