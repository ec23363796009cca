"""How often the search's candidates hold the record that exact scores put first.

FAISS ranks records by inner products of projected vectors, which are estimates; the more dimensions
a projection has, the better. Measured for HAIF, whose vectors an index holds.
"""

from __future__ import annotations

from collections.abc import Sequence
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
CANDIDATES = (16, 64, 256)


def shortlist_recall(
    tracer: Tracer,
    questions: Sequence[Question],
    exact_QN: np.ndarray,
    regime: str,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of results.json, one a dimension and number of candidates.

    Args:
        exact_QN: HAIF's exact scores of every window.
    """
    import torch

    first_Q = exact_QN.argmax(1)
    projectors = [tracer.engine.projector(dimension, 0) for dimension in DIMENSIONS]
    sides = [
        torch.stack([tracer.engine.project(q.direction.unit, projector) for q in questions])
        for projector in projectors
    ]
    estimates = [np.zeros(exact_QN.shape) for _ in projectors]
    index = tracer.index
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
    table = []
    for dimension, found_QN in zip(DIMENSIONS, estimates, strict=True):
        # Places before the exact first one's, in the order of the estimates.
        first = np.take_along_axis(found_QN, first_Q[:, None], 1)
        before_Q = (found_QN > first).sum(1)
        for count in CANDIDATES:
            recall = Proportion(int((before_Q < count).sum()), len(before_Q))
            table.append(
                {
                    "regime": regime,
                    "method": "haif",
                    "seed": seed,
                    "dimension": dimension,
                    "candidates": count,
                    "records": exact_QN.shape[1],
                    **recall.row(),
                }
            )
    return table
