"""How often the search's candidates hold the record that exact scores put first.

A search ranks records by inner products of projected vectors, which are estimates; the more
dimensions a projection has, the better. An index holds one vector a record, which is HAIF's sum,
and one a label token, from which late interaction is estimated by its own rule.

Shape letters: Q questions, N windows, S query directions of all questions together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from haiftrace.bench.statistics import Proportion
from haiftrace.methods import HAIF, METHODS, LateMethod
from haiftrace.methods.late import strengths
from haiftrace.methods.settings import LateSettings
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.sides import distinct, sides_of
from haiftrace.scoring.token_shortlist import combined, vectors_of

if TYPE_CHECKING:
    from haiftrace.progress import Progress
    from haiftrace.scoring.directions import Question
    from haiftrace.trace import Tracer

Vectors = Literal["record", "token"]

DIMENSIONS: dict[Vectors, tuple[int, ...]] = {"record": (128, 512, 2048), "token": (128, 512, 1024)}
"""Of one vector a record, and of one a label token."""

CANDIDATES = (16, 64, 256)


def shortlist_recall(
    tracer: Tracer,
    questions: Sequence[Question],
    exact: Mapping[str, np.ndarray],
    late: LateSettings,
    regime: str,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of results.json, one a method, kind of vector, dimension and number of candidates.

    Args:
        exact: [Q, N] every window's exact scores, of HAIF and methods by late interaction.
        late: what the latter are told.
    """
    by_record = _by_records(tracer, questions, progress)
    methods = [m for name in exact if isinstance(m := METHODS[name], LateMethod)]
    by_token = _by_tokens(tracer, questions, methods, late, progress) if methods else {}
    table = []
    for name, exact_QN in exact.items():
        estimates: dict[tuple[Vectors, int], np.ndarray] = {
            ("record", dimension): found_QN for dimension, found_QN in by_record.items()
        }
        for (of, dimension), found_QN in by_token.items():
            if of == name:
                estimates["token", dimension] = found_QN
        for (vectors, dimension), found_QN in estimates.items():
            for count, recall in recall_of(exact_QN, found_QN).items():
                table.append(
                    {
                        "regime": regime,
                        "method": name,
                        "seed": seed,
                        "vectors": vectors,
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

    dimensions = DIMENSIONS["record"]
    projectors = [tracer.engine.projector(dimension, 0) for dimension in dimensions]
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
    return dict(zip(dimensions, estimates, strict=True))


def _by_tokens(
    tracer: Tracer,
    questions: Sequence[Question],
    methods: Sequence[LateMethod],
    late: LateSettings,
    progress: Progress,
) -> dict[tuple[str, int], np.ndarray]:
    """[Q, N] by method and dimension: what one vector a label token estimates."""
    engine, index = tracer.engine_over(late.scope), tracer.index
    asked = [(method, question) for method in methods for question in questions]
    dimensions = DIMENSIONS["token"]
    projectors = [engine.projector(dimension, 0) for dimension in dimensions]
    of_each = [sides_of(method, question) for method, question in asked]
    sides, place_S = distinct([side for some in of_each for side in some])
    stacked = [vectors_of(sides, engine, projector) for projector in projectors]
    strengths_PND = np.zeros((len(projectors), len(index), len(sides)))
    everything = tuple(engine.parameters)
    progress.start("shortlist by tokens", float(len(index)))
    for windows in window_batches(index, range(len(index)), engine.device):
        batch = batch_of(windows, engine.device)
        labels_BT = batch.labels_BT.cpu().numpy().astype(bool)
        # One backward pass for all projections.
        each = engine.scoped_token_gradients(batch, [(everything, one) for one in projectors])
        for dimension, strengths_ND, stacked_DK, tokens in zip(
            dimensions, strengths_PND, stacked, each, strict=True
        ):
            assert tokens.vectors_BTD is not None
            # The index keeps fewer bits, which matters less than its dimensions.
            kept_BTD = tokens.vectors_BTD.float().cpu().numpy()
            for window, kept_TD, labels_T in zip(windows, kept_BTD, labels_BT, strict=True):
                cosines_DM = stacked_DK @ kept_TD[labels_T].T
                strengths_ND[window.row] = strengths(cosines_DM, late.power, 1 / dimension)
        progress.advance(len(windows), tokens=token_count(windows))
    asking = [(method, len(some)) for (method, _), some in zip(asked, of_each, strict=True)]
    return {
        (name, dimension): scores_QN
        for dimension, strengths_ND in zip(dimensions, strengths_PND, strict=True)
        for name, scores_QN in scores_of(asking, strengths_ND[:, place_S]).items()
    }


def scores_of(
    asking: Iterable[tuple[LateMethod, int]], strengths_NS: np.ndarray
) -> dict[str, np.ndarray]:
    """[Q, N] by method.

    Args:
        asking: the method of each question and how many directions it asks with, in the order of
            the strengths' columns.
    """
    found: dict[str, list[np.ndarray]] = {}
    at = 0
    for method, count in asking:
        scores_N = combined(method, strengths_NS[:, at : at + count], count)
        found.setdefault(method.name, []).append(scores_N)
        at += count
    return {name: np.stack(some) for name, some in found.items()}
