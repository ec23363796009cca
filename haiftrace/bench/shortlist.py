"""How often the search's candidates hold the record that exact scores put first.

A search ranks records by inner products of projected vectors, which are estimates; the more
dimensions a projection has, the better. An index holds one vector a record, which is HAIF's sum.

Shape letters: Q questions, N windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.bench.statistics import Proportion
from haiftrace.methods import HAIF
from haiftrace.scoring.batches import batch_of, token_count, window_batches

if TYPE_CHECKING:
    from haiftrace.progress import Progress
    from haiftrace.scoring.directions import Question
    from haiftrace.trace import Tracer

DIMENSIONS = (128, 512, 2048)
"""Of one vector a record."""

CANDIDATES = (16, 64, 256)


def shortlist_recall(
    tracer: Tracer,
    questions: Sequence[Question],
    exact: Mapping[str, np.ndarray],
    regime: str,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of results.json, one a method, kind of vector, dimension and number of candidates.

    Args:
        exact: [Q, N] every window's exact scores, by the method's name.
    """
    by_record = _by_records(tracer, questions, progress)
    table = []
    for name, exact_QN in exact.items():
        for dimension, found_QN in by_record.items():
            for count, recall in recall_of(exact_QN, found_QN).items():
                table.append(
                    {
                        "regime": regime,
                        "method": name,
                        "seed": seed,
                        "vectors": "record",
                        "dimension": dimension,
                        "candidates": count,
                        "records": exact_QN.shape[1],
                        **recall.row(),
                    }
                )
    return table


def recall_of(exact_QN: np.ndarray, found_QN: np.ndarray) -> dict[int, Proportion]:
    """By number of candidates: how often the first by exact scores is among them."""
    # Places before the exact first one's, in the order of the estimates.
    first = np.take_along_axis(found_QN, exact_QN.argmax(1)[:, None], 1)
    before_Q = (found_QN > first).sum(1)
    return {count: Proportion(int((before_Q < count).sum()), len(before_Q)) for count in CANDIDATES}


def _by_records(
    tracer: Tracer, questions: Sequence[Question], progress: Progress
) -> dict[int, np.ndarray]:
    """[Q, N] by dimension: what one vector a record estimates."""
    import torch

    projectors = [tracer.engine.projector(dimension, 0) for dimension in DIMENSIONS]
    sides = [
        torch.stack([tracer.engine.project(q.direction.unit, projector) for q in questions])
        for projector in projectors
    ]
    index = tracer.index
    estimates = [np.zeros((len(questions), len(index))) for _ in projectors]
    progress.start("shortlist", float(len(index)))
    for windows in window_batches(index, range(len(index)), tracer.engine.device):
        batch = batch_of(windows, tracer.engine.device)
        weights_NBT = np.zeros((1, *batch.ids_BT.shape))
        for row, window in zip(weights_NBT[0], windows, strict=True):
            row[: len(window.token_ids)] = HAIF.weights(window.token_grad_norm)
        rows = [window.row for window in windows]
        lengths_B = np.array([max(window.haif_norm, 1e-300) for window in windows])
        for projector, side_QD, found_QN in zip(projectors, sides, estimates, strict=True):
            reduced = tracer.engine.record_gradients(
                batch, torch.from_numpy(weights_NBT), projector
            )
            assert reduced.projected_NBD is not None
            products_QB = side_QD @ reduced.projected_NBD[0].T
            found_QN[:, rows] = products_QB.cpu().numpy() / lengths_B
        progress.advance(len(windows), tokens=token_count(windows))
    return dict(zip(DIMENSIONS, estimates, strict=True))
