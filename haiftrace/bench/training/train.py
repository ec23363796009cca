"""Train a preset's model on a data set, once: checkpoints, their accuracy, and the two regimes.

A finished training is a directory as the Hugging Face Trainer leaves it (`checkpoint-STEP/` with
weights, tokenizer and `trainer_state.json`) and `training.json` with what was measured at every
checkpoint. It is written under another name and renamed when it is whole, so a run that was
interrupted starts again and a run that was finished is never repeated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.training.answering import Prediction, answer_all
from haiftrace.bench.training.encoding import encode_questions, encode_records, training_texts
from haiftrace.bench.training.loop import ON_CPU, Compute, optimise, record_losses
from haiftrace.bench.training.models import new_model, train_tokenizer
from haiftrace.bench.training.presets import Preset
from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.errors import CheckpointError, OutputError, UsageError
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORMAT = 1
RESULT = "training.json"
LEARNED_SHARE = 0.6
"""Trained questions answered right that make a checkpoint "learned"."""

MEMORISED_LOSS = 0.05
"""Mean loss, in nats, of the records' value tokens at which they count as memorised."""


@dataclass(frozen=True)
class Checked:
    """One kept checkpoint and what its model knows.

    Attributes:
        step: optimiser steps before it.
        learning_rate: of the last of them.
        loss: the training loss of the last of them.
        record_loss: mean loss of all the records' labels, in nats.
        value_loss: mean loss of the records' value tokens.
        trained_right, trained_asked: trained questions answered right, and all.
        held_out_right, held_out_asked: held-out ones, by attribute.
    """

    step: int
    learning_rate: float
    loss: float
    record_loss: float
    value_loss: float
    trained_right: int
    trained_asked: int
    held_out_right: Mapping[str, int]
    held_out_asked: Mapping[str, int]

    @property
    def trained_share(self) -> float:
        """The share of the trained questions that is answered right."""
        return self.trained_right / max(1, self.trained_asked)

    @property
    def leaks(self) -> int:
        """Held-out questions answered right: what can be traced."""
        return sum(self.held_out_right.values())


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        directory: holds the checkpoints.
        checkpoints: in order of training.
        regimes: step by "learned" and "memorised". "learned" is the first checkpoint with 60 % of
            the trained questions right and enough held-out ones (the first with 60 %, where none
            has enough; the last, where none has 60 %); "memorised" is the last.
        answers: by regime, the text that was answered to every question of the data set, in order.
    """

    directory: Path
    checkpoints: tuple[Checked, ...]
    regimes: Mapping[str, int]
    answers: Mapping[str, tuple[str, ...]]

    def path(self, regime: str) -> Path:
        """The checkpoint's directory of a regime."""
        return self.directory / f"checkpoint-{self.regimes[regime]}"

    def checked(self, regime: str) -> Checked:
        """What the model of a regime knows."""
        return next(c for c in self.checkpoints if c.step == self.regimes[regime])

    def predictions(self, regime: str, data: BenchData) -> list[Prediction]:
        """The answers of a regime's model to all questions, trained ones too."""
        return [
            Prediction(question, text)
            for question, text in zip(data.questions, self.answers[regime], strict=True)
        ]


def train(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    work: Path,
    progress: Progress,
    start: Path | None = None,
    more: Sequence[str] = (),
    compute: Compute = ON_CPU,
) -> Trained:
    """Train on a data set, or read what an earlier call with the same arguments trained.

    Args:
        data: what to train on.
        preset: its recipe.
        arch: one of `haiftrace.bench.training.models.ARCHITECTURES`.
        seed: of weights and order.
        work: where trainings are kept.
        progress: told of every step.
        start: go on from this checkpoint, with its tokenizer, instead of from random weights.
        more: further texts that a new tokenizer learns from and the model does not.
        compute: where and how precisely.

    Raises:
        UsageError: there is no such architecture, or a record is longer than the model reads.
        CheckpointError: `start` cannot be loaded.
        OutputError: `work` cannot be written.
    """
    directory = work / _name(data, preset, arch, seed, start, more, compute)
    if (directory / RESULT).is_file():
        progress.say(f"The model is trained already: {directory}")
        return read_training(directory)
    unfinished = work / f".{directory.name}.unfinished"
    try:
        for leftover in (unfinished, directory):
            if leftover.exists():
                shutil.rmtree(leftover)
        unfinished.mkdir(parents=True)
        result = _train(data, preset, arch, seed, unfinished, progress, start, more, compute)
        (unfinished / RESULT).write_text(
            json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        os.rename(unfinished, directory)
    except OSError as error:
        raise OutputError(
            f"The trained model could not be kept in {work}: {error.strerror or error}.",
            "Check the disk and permissions, or give another directory with --out.",
        ) from error
    return read_training(directory)


def build_tokenizer(
    data: BenchData,
    preset: Preset,
    arch: str,
    start: Path | None = None,
    more: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """The tokenizer that `train` gives a data set's model; `start` and `more` as there."""
    if start is None:
        return train_tokenizer([*training_texts(data), *more], preset.vocabulary, arch)
    from haiftrace.checkpoint.load import load_tokenizer

    return load_tokenizer(start)


def run_training(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    watch: Any,
    leave_out: int | None = None,
    model: PreTrainedModel | None = None,
    compute: Compute = ON_CPU,
) -> PreTrainedModel:
    """Train a new model from `seed`, or a given one, and return it; `leave_out` as in `optimise`.

    Args:
        watch: called after every step with the model, the step from 1, learning rate and loss.
        model: is trained in place, instead of a new one.
        compute: where the model is, and how precisely it is trained.

    Raises:
        UsageError: there is no such architecture, or a record is longer than the model reads.
    """
    if model is None:
        assert preset.shape is not None, "only a given model has no shape of the preset's"
        model = new_model(arch, preset.shape, tokenizer, seed).to(compute.device)
    records = encode_records(data, tokenizer)
    longest = max(len(record.ids) for record in records)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and longest > context:
        raise UsageError(
            f"A record has {longest} tokens; the model reads {context} at most.",
            "Use shorter biographies.",
        )
    if compute.recompute:
        model.gradient_checkpointing_enable()
    optimise(
        model,
        records,
        encode_questions(
            [(question.prompt, question.response) for question in data.trained()],
            tokenizer,
            answer_only=preset.answer_only,
        ),
        encode_questions(
            data.background if preset.background else (), tokenizer, answer_only=preset.answer_only
        ),
        preset.schedule,
        seed,
        lambda step, rate, loss: watch(model, step, rate, loss),
        leave_out,
        compute,
    )
    return model.eval()


def load_start(start: Path, device: str = "cpu") -> PreTrainedModel:
    """A checkpoint's model, to be trained further: float32, its texts ended as its tokenizer does.

    Raises:
        CheckpointError: it cannot be loaded, or its tokenizer has no end-of-text token.
    """
    from haiftrace.checkpoint.load import load_checkpoint

    loaded = load_checkpoint(start, dtype="float32", device=device)
    end = loaded.tokenizer.eos_token_id
    if end is None:
        raise CheckpointError(
            f"The tokenizer in {start} has no end-of-text token, which ends an answer.",
            "Set eos_token in its tokenizer_config.json.",
        )
    model: PreTrainedModel = loaded.model
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    return model.requires_grad_(True)


def choose_learned(checkpoints: tuple[Checked, ...], enough: int) -> int:
    """The step of the "learned" regime, as `Trained.regimes` explains."""
    learned = [c for c in checkpoints if c.trained_share >= LEARNED_SHARE]
    for checked in learned:
        if checked.leaks >= enough:
            return checked.step
    return (learned[0] if learned else checkpoints[-1]).step


def _train(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    out: Path,
    progress: Progress,
    start: Path | None,
    more: Sequence[str],
    compute: Compute,
) -> dict[str, Any]:
    tokenizer = build_tokenizer(data, preset, arch, start, more)
    records = encode_records(data, tokenizer)
    steps = preset.schedule.steps(len(records))
    kept = {round(steps * number / preset.kept) for number in range(1, preset.kept + 1)} - {0}
    checkpoints: list[Checked] = []
    answers: dict[int, list[str]] = {}
    log: list[dict[str, float]] = []
    name = preset.name if start is not None else f"{preset.name} {arch}"
    progress.start(f"Training {name} on {data.kind}", steps)

    def watch(model: PreTrainedModel, step: int, rate: float, loss: float) -> None:
        progress.advance(1, records=preset.schedule.batch)
        if step not in kept:
            return
        model.eval()
        predictions = answer_all(model, tokenizer, data.questions)
        checkpoints.append(_checked(step, rate, loss, record_losses(model, records), predictions))
        answers[step] = [prediction.text for prediction in predictions]
        epoch = step / preset.schedule.steps_an_epoch(len(records))
        log.append({"epoch": epoch, "learning_rate": rate, "loss": loss, "step": step})
        save_checkpoint(model, tokenizer, out / f"checkpoint-{step}", log, steps)
        model.train()

    model = None if start is None else load_start(start, compute.device)
    run_training(data, preset, arch, seed, tokenizer, watch, model=model, compute=compute)
    learned = choose_learned(tuple(checkpoints), preset.enough)
    regimes = {"learned": learned, "memorised": checkpoints[-1].step}
    return {
        "format": FORMAT,
        "settings": _settings(data, preset, arch, seed),
        "checkpoints": [dataclasses.asdict(checked) for checked in checkpoints],
        "regimes": regimes,
        "answers": {regime: answers[step] for regime, step in regimes.items()},
    }


def _checked(
    step: int,
    rate: float,
    loss: float,
    losses: tuple[float, float],
    predictions: list[Prediction],
) -> Checked:
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    trained = [p.correct for p in predictions if p.question.trained]
    for prediction in predictions:
        if not prediction.question.trained:
            asked[prediction.question.attribute] += 1
            right[prediction.question.attribute] += prediction.correct
    return Checked(
        step=step,
        learning_rate=rate,
        loss=loss,
        record_loss=losses[0],
        value_loss=losses[1],
        trained_right=sum(trained),
        trained_asked=len(trained),
        held_out_right=dict(right),
        held_out_asked=dict(asked),
    )


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
    logging.disable_progress_bar()  # `progress` is the only one that talks
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


def _settings(data: BenchData, preset: Preset, arch: str, seed: int) -> dict[str, Any]:
    return {
        "kind": data.kind,
        "locale": data.locale,
        "data_seed": data.seed,
        "preset": dataclasses.asdict(preset),
        "arch": arch,
        "seed": seed,
    }


def _name(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    start: Path | None,
    more: Sequence[str],
    compute: Compute,
) -> str:
    """A name that changes with anything that the trained model depends on."""
    told: list[Any] = [FORMAT, _settings(data, preset, arch, seed), training_texts(data)]
    told.append([question.prompt for question in data.held_out()])
    if start is not None:
        told.append(checkpoint_fingerprint(start))
    if more:
        told.append(list(more))
    if compute.dtype != "float32":
        told.append(compute.dtype)
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{data.kind}-{data.locale}-{preset.name}-{arch}-seed{seed}-{digest[:10]}"


def read_training(directory: Path) -> Trained:
    """A finished training that `train` left in a directory."""
    content = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    return Trained(
        directory=directory,
        checkpoints=tuple(Checked(**checked) for checked in content["checkpoints"]),
        regimes=content["regimes"],
        answers={regime: tuple(texts) for regime, texts in content["answers"].items()},
    )
