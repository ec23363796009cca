"""The records whose text holds what is traced, beside the records that influence names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from haiftrace.calibration.learnt import hardly_known, surprise
from haiftrace.calibration.null_distribution import read_groups
from haiftrace.calibration.text_evidence import chance_of_text, doubt_of
from haiftrace.findings import Holder, Source
from haiftrace.privacy import canonical, detect
from haiftrace.query.query import Query
from haiftrace.scoring.family import QueryScores
from haiftrace.scoring.holder_search import HolderSearch
from haiftrace.store import Index, StoredWindow

LEAST_CHARACTERS = 4
"""Letters and digits of what is looked up: less stands anywhere."""


class TextLookup:
    """Looks what is traced up in the records of one index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._search = HolderSearch(index)

    def records(self, queries: Sequence[Query]) -> list[list[int] | None]:
        """The numbers of the records that hold what is traced of each query, ascending.

        None where it is too short to be looked up.
        """
        texts = [traced_text(query) for query in queries]
        places = [n for n, text in enumerate(texts) if _can_be_looked_up(text)]
        by_text = self._search.records([texts[n] for n in places])
        holders: list[list[int] | None] = [None for _ in texts]
        for place, records in zip(places, by_text, strict=True):
            holders[place] = records
        return holders

    def holders(self, records: Sequence[int], scores: QueryScores) -> tuple[Holder, ...]:
        """The records as holders, those that score highest first."""
        total = self._index.manifest.totals.records
        scores_R = scores.by_record(self._record_N, total) / (scores.scale or 1.0)
        order = sorted(records, key=lambda record: (-scores_R[record], record))
        rows = np.searchsorted(self._record_N, np.sort(records)).tolist()
        first = {window.record: window for window in self._index.iter_windows(rows)}
        groups_R = self._groups_R
        return tuple(
            Holder(
                first[record].id,
                Source(first[record].path, first[record].line),
                float(scores_R[record]) if np.isfinite(scores_R[record]) else None,
                None if groups_R is None else int(groups_R[record]),
            )
            for record in order
        )

    def chance(self, query: Query) -> float:
        """An upper bound on the chance that what is traced stands in this corpus."""
        text = traced_text(query)
        is_identifier = any((d.start, d.end) == (0, len(text)) for d in detect(text))
        return chance_of_text(text, is_identifier, self._unrelated)

    def doubt(self, query: Query, first: StoredWindow) -> str | None:
        """Why the window that influence names first is not the source; see `doubt_of`."""
        surprised = surprise(first, query.prompt)
        is_known = surprised is None or surprised <= self._hardly_known
        return doubt_of(traced_text(query), first.text, is_known)

    @cached_property
    def _hardly_known(self) -> float:
        return hardly_known(self._index)

    @cached_property
    def _record_N(self) -> np.ndarray:
        return self._index.column("record")

    @cached_property
    def _unrelated(self) -> int:
        """Records no two of which are of one group."""
        groups_R = self._groups_R
        if groups_R is None:
            return self._index.manifest.totals.records
        return len(np.unique(groups_R))

    @cached_property
    def _groups_R(self) -> np.ndarray | None:
        return read_groups(self._index)


def traced_text(query: Query) -> str:
    """What is traced of a query's response."""
    text = query.response if query.span is None else query.span
    return text.strip().rstrip(".,;:!?。，；：！？")


def _can_be_looked_up(text: str) -> bool:
    return len(canonical(text).text) >= LEAST_CHARACTERS
