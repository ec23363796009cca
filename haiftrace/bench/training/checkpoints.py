"""A finished training: its checkpoints, how many answers each gives, and the two regimes.

It is a directory as the Hugging Face Trainer leaves it (`checkpoint-STEP/` with weights, tokenizer
and `trainer_state.json`) and `training.json` with what was measured at every checkpoint.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.bench.harness.stages import Stage
from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.training.answering import Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RESULT = "training.json"
LEARNED_ACCURACY = 0.6
"""Fraction of the trained questions answered right that makes a checkpoint "learned"."""

MEMORISED_LOSS = 0.05
"""Mean loss, in nats, of the records' value tokens at which they count as memorised."""


@dataclass(frozen=True)
class CheckpointMetrics:
    """What was measured at a saved checkpoint.

    Attributes:
        step: optimiser steps before it.
        learning_rate: of the last of them.
        loss: the training loss of the last of them.
        record_loss: mean loss of all the records' labels, in nats.
        value_loss: mean loss of the records' value tokens.
        trained_correct, trained_total: trained questions answered right, and all.
        held_out_correct, held_out_total: held-out ones, by attribute.
    """

    step: int
    learning_rate: float
    loss: float
    record_loss: float
    value_loss: float
    trained_correct: int
    trained_total: int
    held_out_correct: Mapping[str, int]
    held_out_total: Mapping[str, int]

    @property
    def trained_accuracy(self) -> float:
        """The fraction of the trained questions that is answered right."""
        return self.trained_correct / max(1, self.trained_total)

    @property
    def leaks(self) -> int:
        """Held-out questions answered right: what can be traced."""
        return sum(self.held_out_correct.values())


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        directory: holds the checkpoints.
        fingerprint: SHA-256 (hex) of all that they depend on.
        checkpoints: in order of training.
        regimes: step by "learned" and "memorised". "learned" is the first checkpoint with 60 % of
            the trained questions right and enough held-out ones (the first with 60 %, where none
            has enough; the last, where none has 60 %); "memorised" is the last.
        answers: by regime, the text that was answered to every question of the data set, in order.
    """

    directory: Path
    fingerprint: str
    checkpoints: tuple[CheckpointMetrics, ...]
    regimes: Mapping[str, int]
    answers: Mapping[str, tuple[str, ...]]

    def path(self, regime: str) -> Path:
        """The checkpoint's directory of a regime."""
        return self.directory / f"checkpoint-{self.regimes[regime]}"

    def metrics(self, regime: str) -> CheckpointMetrics:
        """What was measured at a regime's checkpoint."""
        return next(c for c in self.checkpoints if c.step == self.regimes[regime])

    def predictions(self, regime: str, data: BenchData) -> list[Prediction]:
        """The answers of a regime's model to all questions, trained ones too."""
        return [
            Prediction(question, text)
            for question, text in zip(data.questions, self.answers[regime], strict=True)
        ]


def measure_checkpoint(
    step: int,
    rate: float,
    loss: float,
    losses: tuple[float, float],
    predictions: Sequence[Prediction],
) -> CheckpointMetrics:
    """The measurements of a checkpoint.

    Args:
        step, rate, loss: of the last step before it.
        losses: of the records' labels and of their value tokens (`record_losses`).
        predictions: the model's answers to all questions.
    """
    trained = [p.correct for p in predictions if p.question.trained]
    held_out = [p for p in predictions if not p.question.trained]
    return CheckpointMetrics(
        step=step,
        learning_rate=rate,
        loss=loss,
        record_loss=losses[0],
        value_loss=losses[1],
        trained_correct=sum(trained),
        trained_total=len(trained),
        held_out_correct=dict(Counter(p.question.attribute for p in held_out if p.correct)),
        held_out_total=dict(Counter(p.question.attribute for p in held_out)),
    )


def choose_learned(checkpoints: tuple[CheckpointMetrics, ...], enough: int) -> int:
    """The step of the "learned" regime, as `Trained.regimes` explains."""
    learned = [c for c in checkpoints if c.trained_accuracy >= LEARNED_ACCURACY]
    for checkpoint in learned:
        if checkpoint.leaks >= enough:
            return checkpoint.step
    return (learned[0] if learned else checkpoints[-1]).step


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    log: list[dict[str, float]],
    steps: int,
) -> None:
    """A checkpoint's directory as the Hugging Face Trainer writes it, without optimiser state."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # `progress` alone shows the advance
    try:
        model.save_pretrained(directory)
    finally:
        if bars:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(directory)
    state = {
        "epoch": log[-1]["epoch"],
        "global_step": log[-1]["step"],
        "max_steps": steps,
        "log_history": log,
    }
    (directory / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n", "utf-8")


def read_training(stage: Stage) -> Trained:
    """The finished training of a stage that `train` made."""
    content = json.loads((stage.path / RESULT).read_text(encoding="utf-8"))
    return Trained(
        directory=stage.path,
        fingerprint=stage.fingerprint,
        checkpoints=tuple(CheckpointMetrics(**metrics) for metrics in content["checkpoints"]),
        regimes=content["regimes"],
        answers={regime: tuple(texts) for regime, texts in content["answers"].items()},
    )
