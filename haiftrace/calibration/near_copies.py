"""Near copies: records that say the same, by the rare words that they share.

Two records are alike by the cosine similarity of their tf-idf vectors over sets of terms (each term
counts idf², once a record), so the name, number and address that two wordings of a biography share
weigh more than a template that a hundred records share. Terms that a single record has make no
two alike, and do not count. A record joins the group whose first record it is most like, if alike
enough, or begins a group (leader clustering): no chain of small steps makes one group of a whole
corpus.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

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
        texts: one a record. The terms of all of them are held in memory as numbers.
    """
    numbers: dict[str, int] = {}
    records = [
        np.unique([numbers.setdefault(t.text, len(numbers)) for t in terms(text)]).astype(np.int64)
        for text in texts
    ]
    counts = Counter(int(term) for record in records for term in record)
    idf = np.zeros(len(numbers))
    for term, count in counts.items():
        idf[term] = math.log(1 + len(records) / count) if count > 1 else 0.0
    records = [record[idf[record] > 0] for record in records]
    return _clustered(records, idf)


def _clustered(records: Sequence[np.ndarray], idf: np.ndarray) -> np.ndarray:
    groups = np.zeros(len(records), dtype=np.int64)
    leaders: list[tuple[np.ndarray, float]] = []
    holding: dict[int, list[int]] = defaultdict(list)  # term -> groups whose leader has it
    for number, record in enumerate(records):
        norm = float(np.linalg.norm(idf[record]))
        rarest = record[np.argsort(-idf[record], kind="stable")][:_RAREST].tolist()
        nearest, most = -1, ALIKE
        for group in islice(_sharing_term(rarest, holding), _COMPARED):
            other, other_norm = leaders[group]
            shared = np.intersect1d(record, other, assume_unique=True)
            alike = float((idf[shared] ** 2).sum()) / max(norm * other_norm, 1e-300)
            if alike >= most and (alike > most or nearest < 0):
                nearest, most = group, alike
        if nearest < 0:
            nearest = len(leaders)
            leaders.append((record, norm))
            for term in rarest:
                holding[term].append(nearest)
        groups[number] = nearest
    return groups


def _sharing_term(rarest: Sequence[int], holding: dict[int, list[int]]) -> Iterator[int]:
    """Groups that share a term, each once, rarest term first."""
    seen: set[int] = set()
    for term in rarest:
        for group in holding.get(term, ()):
            if group not in seen:
                seen.add(group)
                yield group


def joined_groups(groups: np.ndarray, fields: Sequence[str | None]) -> np.ndarray:
    """Groups where records that share a field's value are together too.

    Args:
        groups: [R] from `near_copy_groups`.
        fields: [R] the value of each record's group field, None where it has none.

    Returns:
        [R] connected components, numbered in order of their first records.
    """
    parent = list(range(len(groups)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[tuple[str, object], int] = {}
    for number, (group, value) in enumerate(zip(groups.tolist(), fields, strict=True)):
        keys: list[tuple[str, object]] = [("group", group)]
        if value is not None:
            keys.append(("field", value))
        for key in keys:
            a, b = root(first.setdefault(key, number)), root(number)
            parent[max(a, b)] = min(a, b)
    order: dict[int, int] = {}
    roots = (root(number) for number in range(len(groups)))
    return np.array([order.setdefault(r, len(order)) for r in roots], dtype=np.int64)
