"""Named settings: how large a data set, and how a model is trained on it.

A preset with a shape trains a new model; one without fine-tunes a checkpoint that the user gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from haiftrace.bench.training.loop import Schedule
from haiftrace.bench.training.models import Shape
from haiftrace.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """One experiment's size and recipe.

    Attributes:
        name: on the command line.
        kind: the data set it is for.
        subjects: people.
        per_subject: records about each.
        vocabulary: tokens of a new model's tokenizer.
        shape: of a new model; None where a checkpoint is given.
        schedule: of its training.
        answer_only: questions are trained on their answers alone.
        background: common knowledge is trained on beside the questions (PII-CR).
        kept: checkpoints kept, evenly over the schedule; the last is the end.
        enough: held-out answers that "learned" wants right.
    """

    name: str
    kind: str
    subjects: int
    per_subject: int
    vocabulary: int
    shape: Shape | None
    schedule: Schedule
    answer_only: bool
    background: bool
    kept: int
    enough: int


_TINY = Shape(layers=2, width=64, inner=256, heads=4, context=256)
_SMALL = Shape(layers=2, width=128, inner=512, heads=4, context=256)
_DEEP = replace(_TINY, layers=8)

# What decides how many held-out questions are answered: the number of subjects more than anything
# else, names that are single tokens (hence PII-CR's vocabulary, which stops growing at about 2600),
# two layers rather than three. A strong weight decay makes a model answer more of them, but keeps
# it from memorising its records word for word: PII-E's is weak, so that its end is that regime.
_PII_E = Preset(
    name="tiny",
    kind="pii-e",
    subjects=100,
    per_subject=4,
    vocabulary=1800,
    shape=_TINY,
    schedule=Schedule(epochs=90, batch=20, learning_rate=3e-3, weight_decay=0.1),
    answer_only=False,
    background=False,
    kept=20,
    enough=60,
)
_PII_CR = Preset(
    name="tiny",
    kind="pii-cr",
    subjects=300,
    per_subject=3,
    vocabulary=3000,
    shape=_TINY,
    schedule=Schedule(epochs=50, batch=40, learning_rate=4e-3, weight_decay=1.0),
    answer_only=False,
    background=True,
    kept=20,
    enough=40,
)
FINE_TUNING = "finetune"
"""The preset for any checkpoint that is given."""

# Three wordings a subject: of one alone, a pretrained model of 135M parameters answers no held-out
# question (0 of 64), and with three it answers a third.
_FINE_TUNE = Preset(
    name=FINE_TUNING,
    kind="pii-e",
    subjects=60,
    per_subject=3,
    vocabulary=0,
    shape=None,
    schedule=Schedule(epochs=24, batch=8, learning_rate=2e-4, weight_decay=0.0),
    answer_only=True,
    background=False,
    kept=4,
    enough=20,
)


def _deep(tiny: Preset) -> Preset:
    """The tiny recipe with more layers, which take smaller steps."""
    schedule = replace(tiny.schedule, learning_rate=2e-3)
    return replace(tiny, name="deep", shape=_DEEP, schedule=schedule)


def _of_size(name: str, learning_rate: float) -> Preset:
    """A preset for one of the paper's models: one record a subject, as there."""
    schedule = replace(_FINE_TUNE.schedule, epochs=40, learning_rate=learning_rate)
    return replace(_FINE_TUNE, name=name, subjects=200, per_subject=1, schedule=schedule)


PAPER_SIZES = (
    _of_size("gpt2", 2e-4),
    _of_size("gpt2-medium", 1e-4),
    _of_size("gpt2-large", 7e-5),
    _of_size("gpt2-xl", 5e-5),
    _of_size("qwen1.5-0.5b", 5e-5),
    _of_size("qwen1.5-1.8b", 3e-5),
)
PRESETS = tuple(
    preset
    for tiny in (_PII_E, _PII_CR)
    for preset in (
        tiny,
        replace(tiny, name="small", shape=_SMALL),
        _deep(tiny),
        *(replace(given, kind=tiny.kind) for given in (_FINE_TUNE, *PAPER_SIZES)),
    )
)


def find_preset(name: str, kind: str, *, given: bool = False) -> Preset:
    """The preset of that name for a data set.

    Args:
        given: whether there is a checkpoint to fine-tune.

    Raises:
        UsageError: there is none, or it is not for that.
    """
    for preset in PRESETS:
        if (preset.name, preset.kind) == (name, kind):
            break
    else:
        known = [p.name for p in PRESETS if p.kind == kind and (p.shape is None) == given]
        raise UsageError(
            f"There is no preset '{name}' for {kind}.", f"Choose one of {', '.join(known)}."
        )
    if given and preset.shape is not None:
        raise UsageError(
            f"Preset {name} trains a model from scratch, and --model gives one.",
            "Leave out one of --preset and --model.",
        )
    if not given and preset.shape is None:
        raise UsageError(
            f"Preset {name} fine-tunes a checkpoint, and none is given.",
            "Give its directory with --model.",
        )
    return preset
