"""The CLUE experiment's model: its tokenizer, its samples, and a training until they are memorised.

The samples are the corpus of the index too, as the texts that they decode to; `draw_samples` only
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
from haiftrace.bench.clue.samples import Sample, draw_samples
from haiftrace.bench.harness.stages import Stage, Stages
from haiftrace.bench.training.encoding import Example
from haiftrace.bench.training.loop import Schedule, optimise, record_losses
from haiftrace.bench.training.models import Shape, new_model, train_tokenizer
from haiftrace.bench.training.train import MEMORISED_LOSS, save_checkpoint
from haiftrace.checkpoint.load import tokenizer_fingerprint
from haiftrace.errors import UsageError
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORMAT = 1
RESULT = "training.json"
KEPT = 5
"""Checkpoints kept, evenly over the training: those of TracInCP and ATTIF. The last is traced."""

CHARACTERS_A_TOKEN = 8
"""Text that is looked at for each token wanted: more than a token covers in any script."""

FEWEST_STEPS = 480
"""Few samples are shown more often than the recipe says, until there are so many steps."""

BETWEEN = "\n"
"""Ends a document. All tokenizers here split behind it, so a document's tokens do not depend on
those after it."""


@dataclass(frozen=True)
class Recipe:
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


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("tiny", 1000, Shape(2, 64, 256, 4, 256), Schedule(60, 8, 4e-3, 0.1)),
        Recipe("small", 4000, Shape(2, 128, 512, 4, 256), Schedule(60, 8, 3e-3, 0.1)),
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
class Kept:
    """A checkpoint: its directory, the steps before it, the last learning rate, the samples' loss.

    `record_loss` is the mean over all labels of all samples, in nats.
    """

    path: Path
    step: int
    learning_rate: float
    record_loss: float


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"There is no preset '{name}' for clue.", f"Choose {', '.join(RECIPES)}.")
    return RECIPES[name]


def schedule_for(recipe: Recipe, samples: int) -> Schedule:
    """The recipe's schedule, long enough for so many samples."""
    epochs = math.ceil(FEWEST_STEPS / recipe.schedule.steps_an_epoch(samples))
    return replace(recipe.schedule, epochs=max(recipe.schedule.epochs, epochs))


def make_samples(
    documents: Iterable[Document], recipe: Recipe, arch: str, count: int, length: int
) -> SampleSet:
    """Trains the tokenizer on the first of the documents, and cuts samples from them.

    Raises:
        CorpusError: there is too little text.
        UsageError: a number of samples or tokens that makes no experiment.
    """
    read = _first_of(documents, CHARACTERS_A_TOKEN * count * length)
    tokenizer = train_tokenizer((d.text + BETWEEN for d in read), recipe.vocabulary, arch)

    def tokenise(text: str) -> list[int]:
        return list(tokenizer(text, verbose=False).input_ids)

    def is_kept(token_ids: Sequence[int]) -> bool:
        return tokenise(_decoded(tokenizer, token_ids)) == list(token_ids)

    def tokenise_document(text: str) -> list[int]:
        return tokenise(text + BETWEEN)

    samples = tuple(draw_samples(read, tokenise_document, count, length, is_kept))
    rules = tokenizer_fingerprint(tokenizer)
    told = json.dumps([rules, [sample.token_ids for sample in samples]])
    return SampleSet(
        samples,
        tuple(_decoded(tokenizer, sample.token_ids) for sample in samples),
        tokenizer,
        hashlib.sha256(told.encode()).hexdigest(),
    )


def train_on_samples(
    stages: Stages, made: SampleSet, recipe: Recipe, arch: str, seed: int, progress: Progress
) -> tuple[Stage, list[Kept]]:
    """The model trained on the samples from `seed`, and its checkpoints in order of training."""

    def make(aside: Path) -> None:
        rows = _train(made, recipe, arch, seed, aside, progress)
        (aside / RESULT).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    told = {
        "format": FORMAT,
        "samples": made.fingerprint,
        "recipe": asdict(recipe),
        "arch": arch,
        "seed": seed,
    }
    stage = stages.stage(f"training-{seed}", told, make)
    rows = json.loads((stage.path / RESULT).read_text(encoding="utf-8"))
    kept = [Kept(stage.path / f"checkpoint-{row['step']}", **row) for row in rows]
    if kept[-1].record_loss > MEMORISED_LOSS:
        progress.say(
            f"Seed {seed}: the samples are not memorised: their mean loss is"
            f" {kept[-1].record_loss:.2g} nats, not {MEMORISED_LOSS} or less."
        )
    return stage, kept


def _train(
    made: SampleSet, recipe: Recipe, arch: str, seed: int, out: Path, progress: Progress
) -> list[dict[str, Any]]:
    examples = [_example(sample.token_ids) for sample in made.samples]
    longest = max(len(example.ids) for example in examples)
    shape = Shape(**asdict(recipe.shape) | {"context": max(longest, recipe.shape.context)})
    model = new_model(arch, shape, made.tokenizer, seed)
    schedule = schedule_for(recipe, len(examples))
    steps = schedule.steps(len(examples))
    saved = {round(steps * number / KEPT) for number in range(1, KEPT + 1)} - {0}
    rows: list[dict[str, Any]] = []
    log: list[dict[str, float]] = []
    progress.start(f"training {recipe.name} {arch} on {len(examples)} samples", steps)

    def watch(step: int, rate: float, loss: float) -> None:
        progress.advance(1, records=schedule.batch)
        if step not in saved:
            return
        model.eval()
        rows.append(_row(model, examples, step, rate))
        epoch = step / schedule.steps_an_epoch(len(examples))
        log.append({"epoch": epoch, "learning_rate": rate, "loss": loss, "step": step})
        save_checkpoint(model, made.tokenizer, out / f"checkpoint-{step}", log, steps)
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
    read, found = 0, []
    for document in documents:
        found.append(document)
        read += len(document.text)
        if read >= characters:
            break
    return found


def _decoded(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
