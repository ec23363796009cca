"""Decoys: fakes of a leak's source that were never trained on.

Each is the source rewritten in one thing. One tells another value of what is asked, under the same
name; one tells the same value under a name that nobody has. A method that prefers the first matches
names, one that prefers the second matches values; what taught the model is the source itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haiftrace.bench.harness.statistics import Proportion
from haiftrace.bench.synthetic.dataset import NAME, BenchData, Question, Record, Span, find_spans
from haiftrace.bench.synthetic.facts import FACTS
from haiftrace.bench.synthetic.subjects import Subject, make_subjects

OTHER_VALUE = "same name, other value"
OTHER_NAME = "same value, other name"
BOTH = "both"
DECOYS = (OTHER_VALUE, OTHER_NAME)

POOL = "decoys"
"""The pool of decoys, their sources and some other records."""

MOST_LEAKS = 24
"""Leaks that get decoys: each adds three records to be indexed and scored, which takes about a
minute for a tiny model."""

OTHERS = 24
"""Records of the pool beside sources and decoys, for methods that compare with a corpus."""

_IMPLIED_BY = {"birthday": "festival", "state": "landmark"}
"""PII-CR: what a record tells instead of the attribute."""

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
    record: Record


def make_decoys(data: BenchData, leaks: Sequence[Question]) -> list[Decoy]:
    """Two for each leak, of the first record about its subject.

    Raises:
        UsageError: there are not as many unused names.
    """
    used = set(data.subjects.values())
    people = make_subjects(data.locale, max(2, len(leaks)), data.seed + _OTHER_SEED, apart=used)
    rng = random.Random(f"{data.seed}:decoys:{data.locale}")
    decoys = []
    for place, leak in enumerate(leaks):
        source = data.records[data.sources(leak)[0]]
        told = _IMPLIED_BY.get(leak.attribute, leak.attribute)
        value = _other_value(data, leak, source, people[place:] + people[:place], rng)
        for kind, changes in (
            (OTHER_VALUE, {told: value}),
            (OTHER_NAME, {NAME: people[place].name}),
        ):
            record = _rewritten(source, changes, f"{leak.id}, {kind}")
            decoys.append(Decoy(leak.id, kind, source.id, record))
    return decoys


def decoy_pool(data: BenchData, decoys: Sequence[Decoy]) -> list[Record]:
    """Sources and others in the order of the corpus, and then the decoys."""
    sources = {decoy.source for decoy in decoys}
    rest = [record.id for record in data.records if record.id not in sources]
    kept = sources | set(rest[:: max(1, len(rest) // OTHERS)][:OTHERS])
    return [r for r in data.records if r.id in kept] + [decoy.record for decoy in decoys]


def decoy_rows(
    scores: Mapping[str, np.ndarray],
    pool: Sequence[Record],
    leaks: Sequence[Question],
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
            won = [all(each.values()) if kind == BOTH else each[kind] for each in beaten]
            share = Proportion(sum(won), len(won))
            told = {"regime": regime, "method": method, "decoy": kind, "seed": seed}
            rows.append({**told, **share.row()})
    return rows


def over_all_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and after them one over all seeds for each regime, method and kind of decoy."""
    keys = ("regime", "method", "decoy")
    together: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        *rows,
        *(
            {
                **dict(zip(keys, about, strict=True)),
                "seed": "all",
                **Proportion(sum(r["successes"] for r in some), sum(r["n"] for r in some)).row(),
            }
            for about, some in together.items()
        ),
    ]


def _other_value(
    data: BenchData,
    leak: Question,
    source: Record,
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
    wrong = [told for told, answer in implied.items() if answer != leak.answer]
    return rng.choice([told for told in wrong if told not in source.text])


def _rewritten(record: Record, changes: Mapping[str, str], new_id: str) -> Record:
    """The record with everything of these kinds told otherwise; `changes` gives the new texts."""
    shown = {span.kind: record.text[span.start : span.end] for span in record.spans}
    text, end = "", 0
    for span in (*record.values(), Span("", len(record.text), len(record.text))):
        # A writer may use one of the names alone; values may hold the same word by chance.
        between = record.text[end : span.start]
        if NAME in changes:
            between = _renamed(between, shown[NAME], changes[NAME])
        text += between + changes.get(span.kind, record.text[span.start : span.end])
        end = span.end
    return Record(new_id, "", text, find_spans(text, {**shown, **changes}))


def _renamed(text: str, name: str, new: str) -> str:
    text = text.replace(name, new)
    parts, others = name.split(), new.split()
    for old, other in zip(parts, others, strict=False) if len(parts) > 1 else ():
        text = re.sub(rf"\b{re.escape(old)}\b", other, text)
    return text
