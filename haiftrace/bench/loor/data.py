"""What leave-one-out retraining starts from and what it trains on: two populations, one data set.

Trained from random weights on 40 biographies of 40 subjects, a model answers no question that it
was not trained on (PII-E: none of 64 after 100 epochs). So a model is first trained on other
subjects, records and questions both, as the paper's models were trained on other text; then it is
tuned on the records whose influence is measured. Only the tuning is repeated without a record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.encoding import training_texts
from haiftrace.bench.training.loop import Schedule
from haiftrace.bench.training.presets import Preset, find_preset

_BEFORE = {"pii-e": 100, "pii-cr": 200}
"""Subjects of the first training."""

# One record about each subject, so that a retraining leaves out all of what is known about it. On
# PII-CR, seed 0, all trained questions are right after 16 to 20 epochs and held-out ones come
# slowly: 1 of 36 by a schedule of 20 epochs, 6 by one of 40. Each epoch is paid for 42 times.
_TUNING = {
    "pii-e": Schedule(epochs=20, batch=10, learning_rate=4e-3, weight_decay=1.0),
    "pii-cr": Schedule(epochs=40, batch=10, learning_rate=4e-3, weight_decay=1.0),
}


@dataclass(frozen=True)
class LoorPreset:
    """Sizes and recipes of one experiment.

    Attributes:
        before: of the first training; its subjects are no candidates.
        tuning: of the training that is repeated without a record.
    """

    before: Preset
    tuning: Preset


@dataclass(frozen=True)
class Populations:
    """The two data sets; no subject is in both.

    Attributes:
        before: what the model is trained on first.
        tuning: what it is tuned on: the candidates and the questions that are traced.
        texts: what the tokenizer learns from besides `before`, so that names are single tokens.
    """

    before: BenchData
    tuning: BenchData
    texts: tuple[str, ...]


def loor_preset(kind: str) -> LoorPreset:
    """The preset of a data set.

    Raises:
        UsageError: there is no such data set.
    """
    tiny = find_preset("tiny", kind)
    return LoorPreset(
        before=replace(tiny, name="loor-before", subjects=_BEFORE[kind], kept=1, enough=0),
        tuning=replace(
            tiny,
            name="loor",
            subjects=40,
            per_subject=1,
            schedule=_TUNING[kind],
            kept=5,
            enough=0,
        ),
    )


def make_populations(preset: LoorPreset, locale: str, seed: int) -> Populations:
    """Invent all subjects together, so that no name or value is used twice, and separate them."""
    before, tuning = preset.before, preset.tuning
    per_subject = max(before.per_subject, tuning.per_subject)
    people = before.subjects + tuning.subjects
    data = make_data(before.kind, locale, people, per_subject, seed)
    names = list(data.subjects)
    tuning_data = subset(data, names[before.subjects :], tuning.per_subject)
    return Populations(
        before=subset(data, names[: before.subjects], before.per_subject),
        tuning=tuning_data,
        texts=tuple(training_texts(tuning_data)),
    )


def subset(data: BenchData, subjects: Collection[str], per_subject: int) -> BenchData:
    """The data of these subjects, with at most `per_subject` records about each."""
    remaining = dict.fromkeys(subjects, per_subject)
    records = []
    for record in data.records:
        if remaining.get(record.subject, 0):
            remaining[record.subject] -= 1
            records.append(record)
    return replace(
        data,
        subjects={who: name for who, name in data.subjects.items() if who in remaining},
        records=tuple(records),
        questions=tuple(question for question in data.questions if question.subject in remaining),
    )
