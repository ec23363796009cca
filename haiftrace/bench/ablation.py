"""What a table of tracing accuracy varies beside the method, and the candidates of each pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion, TrainingRecord
from haiftrace.methods import Combine

LossOn = Literal["response", "all"]

FIRST = "one a subject"
"""The pool of each subject's first record."""

DOCUMENT_SUBJECTS = {"pii-e": 16, "pii-cr": 100}
"""Subjects whose records are joined to documents: the time goes with the square of the length."""


@dataclass(frozen=True)
class Variation:
    """What a table of tracing accuracy varies beside the method.

    Attributes:
        scope: parameters that count.
        loss_on: whether the question's tokens are traced too.
        combine: how token evidence is combined.
        pool: the candidates: "all" records, "one a subject", "documents" of 1, 2, 4 and 8 records
            joined, or a pool that a bench was given.
    """

    scope: str = "linear"
    loss_on: LossOn = "response"
    combine: Combine = "sum"
    pool: str = "all"

    def row(self) -> dict[str, Any]:
        """As rows of results.json hold it: scope, loss_on, combine, pool."""
        return asdict(self)


DEFAULT = Variation()


def joined_records(records: Sequence[TrainingRecord]) -> list[tuple[TrainingRecord, ...]]:
    """The records in their order as documents of 1, 2, 4, 8, 1, 2, … of them."""
    documents: list[tuple[TrainingRecord, ...]] = []
    at = 0
    while at < len(records):
        size = (1, 2, 4, 8)[len(documents) % 4]
        documents.append(tuple(records[at : at + size]))
        at += size
    return documents


def candidates(data: BenchData, pool: str) -> list[tuple[TrainingRecord, ...]]:
    """What is ranked, by pool: all records, each subject's first, or documents."""
    if pool == FIRST:
        return [(record,) for record in {r.subject: r for r in reversed(data.records)}.values()]
    if pool != "documents":
        return [(record,) for record in data.records]
    subjects = set(list(data.subjects)[: DOCUMENT_SUBJECTS[data.kind]])
    return joined_records([record for record in data.records if record.subject in subjects])


def in_pool(data: BenchData, leaks: Sequence[ProbeQuestion], pool: str) -> list[ProbeQuestion]:
    """The leaks whose source is among the candidates."""
    subjects = {record.subject for document in candidates(data, pool) for record in document}
    return [question for question in leaks if question.subject in subjects]
