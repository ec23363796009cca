"""Where the full gradient's norm of a record is: by the tokens' position and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from haiftrace.bench.synthetic.dataset import NAME, BenchData, Record
from haiftrace.scoring.norms import HAIF_NORMS, TOKENS, at_tokens
from haiftrace.store import Index, StoredWindow

KINDS = ("first", "name", "value", "other")
"""The first label; tokens of the subject's name; of the values that the record tells; the rest."""
POSITIONS = 40


def norm_profile(index: Index, data: BenchData, regime: str, seed: int) -> list[dict[str, Any]]:
    """Rows of results.json: the share of a record's squared norm and the median norm.

    One a kind of token, and one a position up to `POSITIONS`. Means over records of one window.

    Args:
        index: one that keeps the norms of full gradients, as HAIF needs them.
    """
    by_id = {record.id: record for record in data.records}
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    norms: dict[str, list[float]] = {kind: [] for kind in KINDS}
    positions: list[list[float]] = [[] for _ in range(POSITIONS)]
    for window in index.iter_windows():
        kinds_T = _kinds(window, by_id[window.id])
        norm_T = at_tokens(index.supplement_values(HAIF_NORMS, window.row)[TOKENS], window)
        squares_T = np.square(norm_T)
        total = float(squares_T.sum()) or 1.0
        for kind in KINDS:
            mask_T = kinds_T == kind
            shares[kind].append(float(squares_T[mask_T].sum()) / total)
            norms[kind] += norm_T[mask_T].tolist()
        for position, square in enumerate(squares_T[1 : POSITIONS + 1]):
            positions[position].append(float(square) / total)
    about = {"regime": regime, "seed": seed}
    rows: list[dict[str, Any]] = [
        {
            **about,
            "tokens": kind,
            "n": len(norms[kind]),
            "share": float(np.mean(shares[kind])),
            "median_norm": float(np.median(norms[kind])) if norms[kind] else None,
        }
        for kind in KINDS
    ]
    return rows + [
        {**about, "position": at + 1, "n": len(some), "share": float(np.mean(some))}
        for at, some in enumerate(positions)
        if some
    ]


def _kinds(window: StoredWindow, record: Record) -> np.ndarray:
    kinds = np.array(["" if not label else "other" for label in window.labels], dtype=object)
    for at, (start, end) in enumerate(window.offsets):
        if not window.labels[at]:
            continue
        held = {s.kind for s in record.spans if s.start < end and start < s.end}
        if held - {NAME}:
            kinds[at] = "value"
        elif held:
            kinds[at] = "name"
    labels = np.flatnonzero(window.labels)
    if len(labels):
        kinds[labels[0]] = "first"
    return kinds


def mean_shares(rows: list[dict[str, Any]], key: str) -> Mapping[Any, float]:
    """The mean share over seeds by the value of `key` ("tokens" or "position")."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if key in row:
            found.setdefault(row[key], []).append(row["share"])
    return {value: float(np.mean(some)) for value, some in found.items()}
