"""The CLUE experiment's model: its tokenizer, its samples, and a training until they are memorised.

The samples are the corpus of the index too, as the texts that they decode to; `cut_samples` only
takes runs of tokens that their own text gives, so both are about the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.bench.clue.corpus import Document
from haiftrace.bench.clue.samples import Sample, cut_samples
from haiftrace.bench.harness.stages import Stage, Stages
from haiftrace.bench.training.checkpoints import MEMORISED_LOSS, save_checkpoint
from haiftrace.bench.training.encoding import Example
from haiftrace.bench.training.loop import Schedule, optimise, record_losses
from haiftrace.bench.training.models import Shape, new_model, train_tokenizer
from haiftrace.checkpoint.tokenizer import tokenizer_fingerprint
from haiftrace.errors import UsageError
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORMAT = 1
RESULT = "training.json"
CHECKPOINTS = 5
"""Checkpoints saved, evenly over the training: those of TracInCP and ATTIF. The last is traced."""

CHARACTERS_A_TOKEN = 8
"""Text that is looked at for each token wanted: more than a token covers in any script."""

FEWEST_STEPS = 480
"""Few samples are shown more often than the preset says, until there are so many steps."""

BETWEEN = "\n"
"""Ends a document. All tokenizers here split behind it, so a document's tokens do not depend on
those after it."""


@dataclass(frozen=True)
class CluePreset:
    """Size and training of a model.

    Attributes:
        name: on the command line.
        vocabulary: tokens of the tokenizer at most.
        shape: of the model; its context is at least a sample's length.
        schedule: of the training.
    """

    name: str
    vocabulary: int
    shape: Shape
    schedule: Schedule


CLUE_PRESETS = {
    preset.name: preset
    for preset in (
        CluePreset("tiny", 1000, Shape(2, 64, 256, 4, 256), Schedule(60, 8, 4e-3, 0.1)),
        CluePreset("small", 4000, Shape(2, 128, 512, 4, 256), Schedule(60, 8, 3e-3, 0.1)),
    )
}


@dataclass(frozen=True)
class SampleSet:
    """What a model is trained on, and what is indexed.

    Attributes:
        samples: in the order of the corpus.
        texts: what each decodes to; each is tokenised to its sample's tokens.
        tokenizer: trained on the documents.
        fingerprint: SHA-256 (hex) of tokens and tokenizer.
    """

    samples: tuple[Sample, ...]
    texts: tuple[str, ...]
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint: its directory, the steps before it, the last learning rate, the samples' loss.

    `record_loss` is the mean over all labels of all samples, in nats.
    """

    path: Path
    step: int
    learning_rate: float
    record_loss: float


def find_clue_preset(name: str) -> CluePreset:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in CLUE_PRESETS:
        raise UsageError(
            f"There is no preset '{name}' for clue.", f"Choose {', '.join(CLUE_PRESETS)}."
        )
    return CLUE_PRESETS[name]


def schedule_for(preset: CluePreset, samples: int) -> Schedule:
    """The preset's schedule, long enough for so many samples."""
    epochs = math.ceil(FEWEST_STEPS / preset.schedule.steps_an_epoch(samples))
    return replace(preset.schedule, epochs=max(preset.schedule.epochs, epochs))


def make_samples(
    documents: Iterable[Document], preset: CluePreset, arch: str, count: int, length: int
) -> SampleSet:
    """Trains the tokenizer on the first of the documents, and cuts samples from them.

    Raises:
        CorpusError: there is too little text.
        UsageError: a number of samples or tokens that makes no experiment.
    """
    first = _first_of(documents, CHARACTERS_A_TOKEN * count * length)
    tokenizer = train_tokenizer((d.text + BETWEEN for d in first), preset.vocabulary, arch)

    def tokenise(text: str) -> list[int]:
        return list(tokenizer(text, verbose=False).input_ids)

    def is_kept(token_ids: Sequence[int]) -> bool:
        return tokenise(_decoded(tokenizer, token_ids)) == list(token_ids)

    def tokenise_document(text: str) -> list[int]:
        return tokenise(text + BETWEEN)

    samples = tuple(cut_samples(first, tokenise_document, count, length, is_kept))
    rules = tokenizer_fingerprint(tokenizer)
    text = json.dumps([rules, [sample.token_ids for sample in samples]])
    return SampleSet(
        samples,
        tuple(_decoded(tokenizer, sample.token_ids) for sample in samples),
        tokenizer,
        hashlib.sha256(text.encode()).hexdigest(),
    )


def train_on_samples(
    stages: Stages,
    sample_set: SampleSet,
    preset: CluePreset,
    arch: str,
    seed: int,
    progress: Progress,
) -> tuple[Stage, list[SavedCheckpoint]]:
    """The model trained on the samples from `seed`, and its checkpoints in order of training."""

    def make(directory: Path) -> None:
        rows = _train(sample_set, preset, arch, seed, directory, progress)
        (directory / RESULT).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    settings = {
        "format": FORMAT,
        "samples": sample_set.fingerprint,
        "recipe": asdict(preset),
        "arch": arch,
        "seed": seed,
    }
    stage = stages.stage(f"training-{seed}", settings, make)
    rows = json.loads((stage.path / RESULT).read_text(encoding="utf-8"))
    checkpoints = [SavedCheckpoint(stage.path / f"checkpoint-{row['step']}", **row) for row in rows]
    if checkpoints[-1].record_loss > MEMORISED_LOSS:
        progress.say(
            f"Seed {seed}: the samples are not memorised: their mean loss is"
            f" {checkpoints[-1].record_loss:.2g} nats, not {MEMORISED_LOSS} or less."
        )
    return stage, checkpoints


def _train(
    sample_set: SampleSet,
    preset: CluePreset,
    arch: str,
    seed: int,
    directory: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    examples = [_example(sample.token_ids) for sample in sample_set.samples]
    longest = max(len(example.ids) for example in examples)
    shape = Shape(**asdict(preset.shape) | {"context": max(longest, preset.shape.context)})
    model = new_model(arch, shape, sample_set.tokenizer, seed)
    schedule = schedule_for(preset, len(examples))
    steps = schedule.steps(len(examples))
    saved = {round(steps * number / CHECKPOINTS) for number in range(1, CHECKPOINTS + 1)} - {0}
    rows: list[dict[str, Any]] = []
    log: list[dict[str, float]] = []
    progress.start(f"training {preset.name} {arch} on {len(examples)} samples", steps)

    def watch(step: int, rate: float, loss: float) -> None:
        progress.advance(1, records=schedule.batch)
        if step not in saved:
            return
        model.eval()
        rows.append(_row(model, examples, step, rate))
        epoch = step / schedule.steps_an_epoch(len(examples))
        log.append({"epoch": epoch, "learning_rate": rate, "loss": loss, "step": step})
        save_checkpoint(model, sample_set.tokenizer, directory / f"checkpoint-{step}", log, steps)
        model.train()

    optimise(model, examples, (), (), schedule, seed, watch)
    return rows


def _row(
    model: PreTrainedModel, examples: Sequence[Example], step: int, rate: float
) -> dict[str, Any]:
    loss, _ = record_losses(model, examples)
    return {"step": step, "learning_rate": rate, "record_loss": loss}


def _example(token_ids: Sequence[int]) -> Example:
    """A sample as training sees it: every token but the first a label, no end token."""
    labels = (False, *(True,) * (len(token_ids) - 1))
    return Example(tuple(token_ids), labels, (False,) * len(token_ids))


def _first_of(documents: Iterable[Document], characters: int) -> list[Document]:
    read, first = 0, []
    for document in documents:
        first.append(document)
        read += len(document.text)
        if read >= characters:
            break
    return first


def _decoded(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
