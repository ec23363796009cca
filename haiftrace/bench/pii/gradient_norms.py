"""Where the full gradient's norm of a record is: by the tokens' position and what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from haiftrace.bench.synthetic.dataset import NAME, BenchData, TrainingRecord
from haiftrace.methods.families import TOKENS
from haiftrace.scoring.gradient.norms import HAIF_NORMS, at_tokens
from haiftrace.store import Index, StoredWindow

KINDS = ("first", "name", "value", "other")
"""The first label; tokens of the subject's name; of the record's values; the rest."""
POSITIONS = 40


def norm_profile(index: Index, data: BenchData, regime: str, seed: int) -> list[dict[str, Any]]:
    """Rows of results.json: the fraction of a record's squared norm and the median norm.

    A row a kind of token, and a row a position up to `POSITIONS`. Means over records of one window.

    Args:
        index: one that keeps the norms of full gradients, as HAIF needs them.
    """
    by_id = {record.id: record for record in data.records}
    fractions: dict[str, list[float]] = {kind: [] for kind in KINDS}
    norms: dict[str, list[float]] = {kind: [] for kind in KINDS}
    positions: list[list[float]] = [[] for _ in range(POSITIONS)]
    for window in index.iter_windows():
        kinds_T = _kinds(window, by_id[window.id])
        norm_T = at_tokens(index.supplement_values(HAIF_NORMS, window.row)[TOKENS], window)
        squares_T = np.square(norm_T)
        total = float(squares_T.sum()) or 1.0
        for kind in KINDS:
            mask_T = kinds_T == kind
            fractions[kind].append(float(squares_T[mask_T].sum()) / total)
            norms[kind] += norm_T[mask_T].tolist()
        for position, square in enumerate(squares_T[1 : POSITIONS + 1]):
            positions[position].append(float(square) / total)
    about = {"regime": regime, "seed": seed}
    rows: list[dict[str, Any]] = [
        {
            **about,
            "tokens": kind,
            "n": len(norms[kind]),
            "share": float(np.mean(fractions[kind])),
            "median_norm": float(np.median(norms[kind])) if norms[kind] else None,
        }
        for kind in KINDS
    ]
    return rows + [
        {**about, "position": at, "n": len(values), "share": float(np.mean(values))}
        for at, values in enumerate(positions, start=1)
        if values
    ]


def _kinds(window: StoredWindow, record: TrainingRecord) -> np.ndarray:
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


def mean_fractions(
    rows: Sequence[Mapping[str, Any]], key: Literal["tokens", "position"]
) -> list[dict[str, Any]]:
    """Rows of `norm_profile` with the same regime and `key`, as a row with their mean "share"."""
    import pandas as pd

    profile = [row for row in rows if key in row]
    if not profile:
        return []
    means = pd.DataFrame(profile).groupby(["regime", key], sort=False)["share"].mean()
    return list(means.reset_index().to_dict("records"))
