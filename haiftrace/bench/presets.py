"""Named settings: how large a data set, and how a model is trained on it from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from haiftrace.bench.models import Shape
from haiftrace.bench.optimise import Schedule
from haiftrace.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """One experiment's size and recipe.

    Attributes:
        name: on the command line.
        kind: the data set it is for.
        subjects: people.
        per_subject: records about each.
        vocabulary: tokens of the tokenizer.
        shape: of the model.
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
    shape: Shape
    schedule: Schedule
    answer_only: bool
    background: bool
    kept: int
    enough: int


_TINY = Shape(layers=2, width=64, inner=256, heads=4, context=256)
_SMALL = Shape(layers=2, width=128, inner=512, heads=4, context=256)

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
PRESETS = (
    _PII_E,
    _PII_CR,
    *(replace(tiny, name="small", shape=_SMALL) for tiny in (_PII_E, _PII_CR)),
)


def find_preset(name: str, kind: str) -> Preset:
    """The preset of that name for a data set.

    Raises:
        UsageError: there is none.
    """
    for preset in PRESETS:
        if (preset.name, preset.kind) == (name, kind):
            return preset
    known = ", ".join(preset.name for preset in PRESETS if preset.kind == kind)
    raise UsageError(f"There is no preset '{name}' for {kind}.", f"Choose one of {known}.")
