"""Train a preset's model on a data set, once: a stage with checkpoints and their accuracy.

A training that was interrupted starts again, and one that was finished is never repeated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.bench.harness.stages import Stages, fingerprint_of
from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.training.answering import answer_all
from haiftrace.bench.training.checkpoints import (
    RESULT,
    CheckpointMetrics,
    Trained,
    choose_learned,
    measure_checkpoint,
    read_training,
    save_checkpoint,
)
from haiftrace.bench.training.encoding import encode_questions, encode_records, training_texts
from haiftrace.bench.training.loop import ON_CPU, Compute, optimise, record_losses
from haiftrace.bench.training.models import new_model, train_tokenizer
from haiftrace.bench.training.presets import Preset
from haiftrace.checkpoint.files import checkpoint_fingerprint
from haiftrace.errors import CheckpointError, OutputError, UsageError
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORMAT = 2


def train(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    stages: Stages,
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
        stages: of the bench; the training is one of them.
        progress: shows every step.
        start: go on from this checkpoint, with its tokenizer, instead of from random weights.
        more: further texts that a new tokenizer learns from and the model does not.
        compute: where and how precisely.

    Raises:
        UsageError: there is no such architecture, or a record is longer than the model reads.
        CheckpointError: `start` cannot be loaded.
        OutputError: the disk refuses.
    """

    def make(directory: Path) -> None:
        try:
            result = _train(data, preset, arch, seed, directory, progress, start, more, compute)
            text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
            (directory / RESULT).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"The trained model could not be kept: {error.strerror or error}.",
                "Check the disk and permissions, or give another directory with --output.",
            ) from error

    settings = {
        "format": FORMAT,
        "kind": data.kind,
        "locale": data.locale,
        "data_seed": data.seed,
        "preset": dataclasses.asdict(preset),
        "arch": arch,
        "seed": seed,
        "texts": fingerprint_of(
            {
                "trained": training_texts(data),
                "held_out": [question.prompt for question in data.held_out()],
                "more": list(more),
            }
        ),
        "start": None if start is None else checkpoint_fingerprint(start),
        "dtype": compute.dtype,
    }
    return read_training(stages.stage(f"training-{seed}", settings, make))


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
    from haiftrace.checkpoint.pretrained import load_tokenizer

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


def _train(
    data: BenchData,
    preset: Preset,
    arch: str,
    seed: int,
    directory: Path,
    progress: Progress,
    start: Path | None,
    more: Sequence[str],
    compute: Compute,
) -> dict[str, Any]:
    tokenizer = build_tokenizer(data, preset, arch, start, more)
    records = encode_records(data, tokenizer)
    steps = preset.schedule.steps(len(records))
    kept = {round(steps * number / preset.kept) for number in range(1, preset.kept + 1)} - {0}
    checkpoints: list[CheckpointMetrics] = []
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
        losses = record_losses(model, records)
        checkpoints.append(measure_checkpoint(step, rate, loss, losses, predictions))
        answers[step] = [prediction.text for prediction in predictions]
        epoch = step / preset.schedule.steps_an_epoch(len(records))
        log.append({"epoch": epoch, "learning_rate": rate, "loss": loss, "step": step})
        save_checkpoint(model, tokenizer, directory / f"checkpoint-{step}", log, steps)
        model.train()

    model = None if start is None else load_start(start, compute.device)
    run_training(data, preset, arch, seed, tokenizer, watch, model=model, compute=compute)
    learned = choose_learned(tuple(checkpoints), preset.enough)
    regimes = {"learned": learned, "memorised": checkpoints[-1].step}
    return {
        "checkpoints": [dataclasses.asdict(metrics) for metrics in checkpoints],
        "regimes": regimes,
        "answers": {regime: answers[step] for regime, step in regimes.items()},
    }
