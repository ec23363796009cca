"""The trajectory of a training run: its checkpoints, each put into the traced model in turn.

TracInCP (Pruthi et al. 2020, section 3.2) and ATTIF (Liu and Yang 2024, eq. 21) sum over the
checkpoints θ_t of a run, weighted by the learning rates η_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.checkpoint.compatibility import SAME_RUN, CompatibilityCheck
from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.checkpoint.training_run import read_run
from haiftrace.checkpoint.weights import Naming, stored_shapes
from haiftrace.errors import CheckpointError

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


@dataclass(frozen=True)
class TrainingStep:
    """A checkpoint θ_t of the training run.

    Attributes:
        path: the absolute directory.
        learning_rate: η_t, the rate in force when θ_t was saved; positive and finite.
        step: the number of optimiser steps before it; None where it was given as PATH:LR.
        fingerprint: `checkpoint_fingerprint` of the directory.
    """

    path: Path
    learning_rate: float
    step: int | None
    fingerprint: str


class TrainingTrajectory:
    """The checkpoints of the run that the traced model comes from.

    There is one way to their weights, which cannot leave the wrong ones behind:

        with trajectory.visiting() as steps:
            for step in steps:
                ...  # here the traced model has the weights of `step`
        # here it has its own again

    Attributes:
        steps: in order of training; at least one.
        notes: what to report to the user about them, in plain words.
    """

    def __init__(
        self, steps: tuple[TrainingStep, ...], checkpoint: Checkpoint, notes: tuple[str, ...] = ()
    ) -> None:
        """Not for callers; see `read`."""
        self.steps = steps
        self.notes = notes
        self._checkpoint = checkpoint

    @classmethod
    def read(cls, spec: str, checkpoint: Checkpoint) -> TrainingTrajectory:
        """The checkpoints that `--checkpoints` names, checked against the traced one.

        Of the weights only the headers are looked at, and all bytes for their fingerprints; a NaN
        is refused by `visiting`.

        Args:
            spec: a directory of the Hugging Face Trainer, or PATH:LR,PATH:LR (see `read_run`).
            checkpoint: the model that is traced.

        Raises:
            UsageError: the list makes no sense.
            CheckpointError: a checkpoint cannot be read, or has another architecture, other
                settings, tensors or another tokenizer than the traced one; or a learning rate is
                missing or impossible.
        """
        run = read_run(spec)
        compatibility = CompatibilityCheck(checkpoint)
        steps = []
        for step in run.steps:
            compatibility.check(step.path)
            fingerprint = checkpoint_fingerprint(step.path)
            steps.append(TrainingStep(step.path, step.learning_rate, step.step, fingerprint))
        return cls(tuple(steps), checkpoint, (*run.notes, *_repeated(steps)))

    @contextmanager
    def visiting(self) -> Iterator[Iterator[TrainingStep]]:
        """Context of an iterator that puts each step's weights into the traced model, in place.

        Parameters and buffers keep their identity, ties, dtype and device; what is not stored in
        weight files (rotary frequencies, say) stays as it is. One model is in memory, and at times
        a second one on the CPU where transformers converts what the files hold.

        When the context ends, however it does, the traced model gets the weights it was loaded
        with, bit for bit, read from its files again. That these give what is in memory is checked
        first. After the end the iterator refuses to go on.

        Raises:
            CheckpointError: on entry, the traced model's files do not hold what is in memory; from
                the iterator, a step's weights are unreadable, NaN or infinite, or its files have
                changed; at the end, the traced model's have (its weights in memory are then lost).
        """
        weights = _Weights(self._checkpoint)
        visit = _Visit(self.steps, weights)
        try:
            yield visit
        finally:
            visit.ended = True
            if visit.begun:
                weights.restore()


class _Visit(Iterator[TrainingStep]):
    """The steps, one after the other, each with its weights in the model."""

    def __init__(self, steps: tuple[TrainingStep, ...], weights: _Weights) -> None:
        self._steps = iter(steps)
        self._weights = weights
        self.begun = self.ended = False

    def __next__(self) -> TrainingStep:
        if self.ended:
            raise RuntimeError("the visit is over: the model has the traced weights again")
        step = next(self._steps)
        _require_unchanged(step.path, step.fingerprint)
        self.begun = True
        self._weights.put(step.path)
        return step


class _Weights:
    """The traced model's weights, to be overwritten and restored.

    Raises:
        CheckpointError: they could not be restored from the files they came from.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._naming = Naming(checkpoint)
        self._parameters = {id(p) for p in checkpoint.model.parameters()}
        _require_unchanged(checkpoint.path, checkpoint.fingerprint)
        # Tensors are read directly only once that has reproduced the traced model itself: under
        # the same names transformers may still convert what they hold.
        fits = self._naming.fits(stored_shapes(checkpoint.path))
        self._directly = fits and self._reproduced(directly=True)
        if not self._directly and not self._reproduced(directly=False):
            raise CheckpointError(
                f"The model in memory has other weights than its files in {checkpoint.path}, from "
                "which they are to be restored.",
                "Load the checkpoint again.",
            )

    def put(self, directory: Path) -> None:
        """Copy a directory's weights into the model."""
        import torch

        filled: dict[int, str] = {}
        with torch.no_grad():
            for name, stored in self._naming.stored(directory, directly=self._directly):
                tensor = self._naming.tensors[name]
                if id(tensor) in filled:
                    self._require_tied(directory, filled[id(tensor)], name, stored)
                    continue
                if id(tensor) in self._parameters:
                    _require_finite(directory, name, stored)
                tensor.copy_(stored)
                filled[id(tensor)] = name

    def restore(self) -> None:
        """Give the model its own weights back."""
        path = self._checkpoint.path
        _require_unchanged(path, self._checkpoint.fingerprint)
        self.put(path)

    def _reproduced(self, *, directly: bool) -> bool:
        import torch

        return all(
            torch.equal(self._naming.tensors[name].detach().cpu(), stored)
            for name, stored in self._naming.stored(self._checkpoint.path, directly=directly)
        )

    def _require_tied(self, directory: Path, first: str, name: str, stored: Any) -> None:
        import torch

        if not torch.equal(self._naming.tensors[name].cpu(), stored):
            raise CheckpointError(
                f"The traced model ties {name} to {first}; in {directory} they differ.", SAME_RUN
            )


def _require_unchanged(directory: Path, fingerprint: str) -> None:
    if checkpoint_fingerprint(directory) != fingerprint:
        raise CheckpointError(
            f"The files in {directory} have changed since they were first read.",
            "Do not change a checkpoint while it is used. Run the command again.",
        )


def _require_finite(directory: Path, name: str, tensor: Any) -> None:
    import torch

    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = tensor.numel() - int(finite.sum())
        raise CheckpointError(
            f"The weights in {directory} are broken: {bad} of {tensor.numel()} entries of {name} "
            "are NaN or infinite.",
            "Leave that checkpoint out: --checkpoints PATH:LR,PATH:LR",
        )


def _repeated(steps: list[TrainingStep]) -> list[str]:
    first: dict[str, Path] = {}
    return [
        f"{step.path} holds the same weights as {first[step.fingerprint]}; both count."
        for step in steps
        if first.setdefault(step.fingerprint, step.path) != step.path
    ]
