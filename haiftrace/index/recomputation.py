"""A seeded sample of an index's windows, computed again by the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.layerwise.similarity import indexed_similarity
from haiftrace.store import Index, encode_signs

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


@dataclass(frozen=True)
class Tolerance:
    """How far numbers of another batch, or of another machine, may be off.

    Attributes:
        relative: of losses and norms, to the largest of the window.
        bits: share of a window's bits that must agree: those near zero may differ.
    """

    relative: float
    bits: float


TOLERANCES = {
    "float64": Tolerance(1e-5, 0.999),
    "float32": Tolerance(1e-3, 0.98),
    "bfloat16": Tolerance(0.1, 0.85),
}
"""By the model's dtype; norms and losses are kept in float32."""


@dataclass(frozen=True)
class Recomputation:
    """What came of it.

    Attributes:
        windows: how many were computed.
        losses, norms: the largest difference, relative to the window's largest.
        vectors: share of all bits that agree; None where no vectors are kept.
        misfits: windows beyond the tolerance, by their record's id and place.
    """

    windows: int
    losses: float
    norms: float
    vectors: float | None
    misfits: tuple[str, ...]


def recompute_sample(
    index: Index,
    checkpoint: Checkpoint,
    count: int,
    seed: int,
    memory: int,
    progress: Progress,
) -> Recomputation:
    """Compute losses, norms and vectors of some windows again, and compare them with the kept ones.

    Args:
        count: how many windows; all where there are no more.
        seed: of the sample.
        memory: bytes that a pass may take.

    Raises:
        HaiftraceError: the index is damaged, or was made by other token gradients.
    """
    similarity = indexed_similarity(index, checkpoint, memory)
    tolerance = TOLERANCES.get(index.settings["dtype"], TOLERANCES["bfloat16"])
    dim = index.layout.token_vectors
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(index))[:count])
    progress.start("computing a sample again", float(len(rows)))
    losses = norms = 0.0
    agreeing = bits = 0
    misfits: list[str] = []
    for windows in window_batches(index, rows.tolist(), similarity.device):
        measures = similarity.measures(
            batch_of(windows, similarity.device), dim, index.settings["seed"]
        )
        for i, window in enumerate(windows):
            labels = np.array(window.labels)
            computed = [
                values[i, : len(labels)].cpu().numpy()[labels]
                for values in (measures.losses_BT, measures.norms_BT)
            ]
            loss, norm = (
                _difference(kept[labels], again)
                for kept, again in zip(
                    (window.token_loss, window.token_grad_norm), computed, strict=True
                )
            )
            share = 1.0
            if measures.vectors_BTK is not None:
                vectors = measures.vectors_BTK[i, : len(labels)].float().cpu().numpy()[labels]
                kept_codes = index.stored_codes(window.row)
                assert kept_codes is not None
                differing = int(np.unpackbits(encode_signs(vectors) ^ kept_codes).sum())
                share = 1 - differing / vectors.size
                agreeing, bits = agreeing + vectors.size - differing, bits + vectors.size
            losses, norms = max(losses, loss), max(norms, norm)
            if max(loss, norm) > tolerance.relative or share < tolerance.bits:
                place = window.path if window.line is None else f"{window.path}:{window.line}"
                misfits.append(
                    f"{window.id} ({place}): losses off by {loss:.1e}, norms by {norm:.1e},"
                    f" {share:.2%} of the bits agree"
                )
        progress.advance(len(windows), records=len(windows), tokens=token_count(windows))
    vectors_agree = agreeing / bits if bits else None
    return Recomputation(len(rows), losses, norms, vectors_agree, tuple(misfits))


def _difference(kept: np.ndarray, again: np.ndarray) -> float:
    scale = max(float(np.abs(again).max()), 1e-12)
    return float(np.abs(kept.astype(np.float64) - again).max()) / scale
