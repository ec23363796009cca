"""Near copies: records that say the same, by the rare words that they share.

Two records are alike by the cosine similarity of their tf-idf vectors over sets of terms (each term
counts idf², once a record), so the name, number and address that two wordings of a biography share
weigh more than a template that a hundred records share. Terms that a single record has make no
two alike, and do not count. A record joins the group whose first record it is most like, if alike
enough, or begins a group (leader clustering): no chain of small steps makes one group of a whole
corpus.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

import numpy as np

from haiftrace.calibration.term_tables import TermTables
from haiftrace.text.terms import terms

ALIKE = 0.5
"""Cosine from which records count as near copies. Wordings of the same facts reach 0.55 to 0.8 in
English, 0.4 to 0.7 in Chinese (whose terms are pairs of characters); records on different people in
the same words 0.25 to 0.45 at their 99.9 % quantile."""

_RAREST = 16
"""Rarest terms of a record by which its group is looked for."""
_COMPARED = 64
"""Most groups that a record is compared with, those that share its rarest terms first."""


def near_copy_groups(texts: Iterable[str]) -> np.ndarray:
    """[R] the group of each record, numbered from 0 in order of their first records.

    Args:
        texts: one a record. Their terms are kept on disk; memory holds a number for each of these.

    Raises:
        IndexStoreError: the disk refuses.
    """
    with closing(TermTables()) as tables:
        for text in texts:
            tables.add(term.text for term in terms(text))
        return _clustered(tables, _inverse_frequencies(tables))


def _inverse_frequencies(tables: TermTables) -> np.ndarray:
    """[terms] idf; 0 of a term that a single record has."""
    counts, place = np.unique(tables.counts(), return_inverse=True)
    idf = [math.log(1 + tables.records / n) if n > 1 else 0.0 for n in counts.tolist()]
    return np.array(idf)[place]


def _clustered(tables: TermTables, idf: np.ndarray) -> np.ndarray:
    def shared_terms(number: int) -> np.ndarray:
        record = tables.record(number)
        return record[idf[record] > 0]

    groups = np.zeros(tables.records, dtype=np.int64)
    leaders, norms = array("q"), array("d")
    for number in range(tables.records):
        record = shared_terms(number)
        norm = float(np.linalg.norm(idf[record]))
        rarest = record[np.argsort(-idf[record], kind="stable")][:_RAREST].tolist()
        nearest, most = -1, ALIKE
        for group in islice(_sharing_term(rarest, tables), _COMPARED):
            shared = np.intersect1d(record, shared_terms(leaders[group]), assume_unique=True)
            alike = float((idf[shared] ** 2).sum()) / max(norm * norms[group], 1e-300)
            if alike >= most and (alike > most or nearest < 0):
                nearest, most = group, alike
        if nearest < 0:
            nearest = len(leaders)
            leaders.append(number)
            norms.append(norm)
            tables.hold(rarest, nearest)
        groups[number] = nearest
    return groups


def _sharing_term(rarest: Sequence[int], tables: TermTables) -> Iterator[int]:
    """Groups whose leader shares a term, each once, rarest term first."""
    seen: set[int] = set()
    for term in rarest:
        for group in tables.holding(term):
            if group not in seen:
                seen.add(group)
                yield group


def joined_groups(groups: np.ndarray, fields: Iterable[str | None]) -> np.ndarray:
    """Groups where records that share a field's value are together too.

    Args:
        groups: [R] from `near_copy_groups`.
        fields: [R] the value of each record's group field, None where it has none.

    Returns:
        [R] connected components, numbered in order of their first records.
    """
    parent = array("q", range(len(groups)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def join(number: int, other: int) -> None:
        a, b = root(number), root(other)
        parent[max(a, b)] = min(a, b)

    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    first_of_value: dict[int, int] = {}
    for number, value in enumerate(fields):
        join(int(first[place[number]]), number)
        if value is not None:
            digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
            join(first_of_value.setdefault(int.from_bytes(digest, "big"), number), number)
    roots = np.fromiter(map(root, range(len(groups))), np.int64, len(groups))
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
