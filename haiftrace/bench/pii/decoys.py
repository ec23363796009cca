"""Decoys: fakes of a leak's source that were never trained on.

Each is the source with one thing rewritten: another value of the attribute under the same name, or
the same value under a name that nobody has. A method that prefers the first matches names, a method
that prefers the second matches values; the model was trained on the source itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haiftrace.bench.harness.statistics import Proportion, pooled
from haiftrace.bench.synthetic.dataset import (
    NAME,
    BenchData,
    ProbeQuestion,
    Span,
    TrainingRecord,
    find_spans,
)
from haiftrace.bench.synthetic.facts import FACTS
from haiftrace.bench.synthetic.subjects import Subject, make_subjects

OTHER_VALUE = "same name, other value"
OTHER_NAME = "same value, other name"
BOTH = "both"
DECOYS = (OTHER_VALUE, OTHER_NAME)

POOL = "decoys"
"""The pool of decoys, their sources and `OTHERS` other records."""

MOST_LEAKS = 24
"""Leaks that get decoys: each adds three records to be indexed and scored, which takes about a
minute for a tiny model."""

OTHERS = 24
"""Records of the pool beside sources and decoys, for methods that compare with a corpus."""

_IMPLIED_BY = {"birthday": "festival", "state": "landmark"}
"""PII-CR: what a record states instead of the attribute."""

_OTHER_SEED = 1_000_003
"""Added to the data's seed: people and values of another data set."""


@dataclass(frozen=True)
class Decoy:
    """A fake.

    Attributes:
        question: id of the leak's question.
        kind: of `DECOYS`.
        source: id of the record that was rewritten.
        record: what came of it.
    """

    question: str
    kind: str
    source: str
    record: TrainingRecord


def make_decoys(data: BenchData, leaks: Sequence[ProbeQuestion]) -> list[Decoy]:
    """Two decoys for each leak, of the first record about its subject.

    Raises:
        UsageError: there are not as many unused names.
    """
    used = set(data.subjects.values())
    people = make_subjects(data.locale, max(2, len(leaks)), data.seed + _OTHER_SEED, apart=used)
    rng = random.Random(f"{data.seed}:decoys:{data.locale}")
    decoys = []
    for place, leak in enumerate(leaks):
        source = data.records[data.sources(leak)[0]]
        stated = _IMPLIED_BY.get(leak.attribute, leak.attribute)
        value = _other_value(data, leak, source, people[place:] + people[:place], rng)
        for kind, changes in (
            (OTHER_VALUE, {stated: value}),
            (OTHER_NAME, {NAME: people[place].name}),
        ):
            record = _rewritten(source, changes, f"{leak.id}, {kind}")
            decoys.append(Decoy(leak.id, kind, source.id, record))
    return decoys


def decoy_pool(data: BenchData, decoys: Sequence[Decoy]) -> list[TrainingRecord]:
    """Sources and others in the order of the corpus, and then the decoys."""
    sources = {decoy.source for decoy in decoys}
    rest = [record.id for record in data.records if record.id not in sources]
    kept = sources | set(rest[:: max(1, len(rest) // OTHERS)][:OTHERS])
    return [r for r in data.records if r.id in kept] + [decoy.record for decoy in decoys]


def decoy_rows(
    scores: Mapping[str, np.ndarray],
    pool: Sequence[TrainingRecord],
    leaks: Sequence[ProbeQuestion],
    decoys: Sequence[Decoy],
    regime: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of results.json: how often the source beats its fake of each kind, and both of them.

    Args:
        scores: [leaks, pool] by method.
        pool: what `decoy_pool` gives.
    """
    column = {record.id: number for number, record in enumerate(pool)}
    fakes: dict[str, list[tuple[str, int, int]]] = {leak.id: [] for leak in leaks}
    for decoy in decoys:
        places = (column[decoy.source], column[decoy.record.id])
        fakes[decoy.question].append((decoy.kind, *places))
    rows = []
    for method, scores_QR in scores.items():
        beaten = [
            {kind: bool(row[source] > row[fake]) for kind, source, fake in fakes[leak.id]}
            for row, leak in zip(scores_QR, leaks, strict=True)
        ]
        for kind in (*DECOYS, BOTH):
            won = [all(wins.values()) if kind == BOTH else wins[kind] for wins in beaten]
            keys = {"regime": regime, "method": method, "decoy": kind, "seed": seed}
            rows.append({**keys, **Proportion(sum(won), len(won)).row()})
    return rows


def over_all_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and after them one over all seeds for each regime, method and kind of decoy."""
    of_all = [{**row, "seed": "all"} for row in rows]
    return [*rows, *pooled(of_all, ["regime", "method", "decoy", "seed"])]


def _other_value(
    data: BenchData,
    leak: ProbeQuestion,
    source: TrainingRecord,
    people: Sequence[Subject],
    rng: random.Random,
) -> str:
    """A wrong value: what another data set's people have, or what implies another answer."""
    if leak.attribute not in _IMPLIED_BY:
        known = {q.answer for q in data.questions if q.attribute == leak.attribute}
        values = (person.values[leak.attribute] for person in people)
        return next(value for value in values if value not in known and value not in source.text)
    facts = FACTS[data.locale]
    implied = facts.festivals if leak.attribute == "birthday" else facts.landmarks
    wrong = [stated for stated, answer in implied.items() if answer != leak.answer]
    return rng.choice([stated for stated in wrong if stated not in source.text])


def _rewritten(record: TrainingRecord, changes: Mapping[str, str], new_id: str) -> TrainingRecord:
    """The record with the text of every span of these kinds replaced by that of `changes`."""
    shown = {span.kind: record.text[span.start : span.end] for span in record.spans}
    text, end = "", 0
    for span in (*record.values(), Span("", len(record.text), len(record.text))):
        # A writer may use a first or last name alone; values may hold the same word by chance.
        between = record.text[end : span.start]
        if NAME in changes:
            between = _renamed(between, shown[NAME], changes[NAME])
        text += between + changes.get(span.kind, record.text[span.start : span.end])
        end = span.end
    return TrainingRecord(new_id, "", text, find_spans(text, {**shown, **changes}))


def _renamed(text: str, name: str, new: str) -> str:
    text = text.replace(name, new)
    old_words, new_words = name.split(), new.split()
    for old, other in zip(old_words, new_words, strict=False) if len(old_words) > 1 else ():
        text = re.sub(rf"\b{re.escape(old)}\b", other, text)
    return text
