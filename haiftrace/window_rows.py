"""What the index keeps of a batch of windows: everything that the engine knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haiftrace.store import WindowRow
from haiftrace.windows import Window

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine, Projector


def window_rows(
    windows: list[Window],
    engine: GradientEngine,
    record_projector: Projector,
    token_projector: Projector | None,
) -> dict[int, WindowRow]:
    """The rows of a batch of windows, by the windows' identity.

    Args:
        windows: windows of like length.
        record_projector: of the unit HAIF vectors.
        token_projector: of the tokens' unit gradients; None keeps none.
    """
    import torch

    from haiftrace.engine import inverse_norms, make_batch

    batch = make_batch([w.token_ids for w in windows], [w.labels for w in windows], engine.device)
    tokens = engine.token_gradients(batch, token_projector)
    counts_B1 = batch.labels_BT.double().sum(1, keepdim=True)
    weights_NBT = torch.stack([inverse_norms(tokens.norms_BT), batch.labels_BT / counts_B1])
    records = engine.record_gradients(batch, weights_NBT, record_projector)
    assert records.projected_NBD is not None
    scale_B1 = inverse_norms(records.norm_NB[0]).unsqueeze(1)
    vectors = (records.projected_NBD[0] * scale_B1).float().cpu().numpy()
    losses, norms = tokens.losses_BT.cpu().numpy(), tokens.norms_BT.cpu().numpy()
    means = (tokens.losses_BT.sum(1) / counts_B1[:, 0]).tolist()
    vectors_BTD = tokens.vectors_BTD
    token_vectors = None if vectors_BTD is None else vectors_BTD.half().cpu().numpy()
    rows = {}
    for i, window in enumerate(windows):
        length = len(window.token_ids)
        text, offsets = _own_text(window)
        rows[id(window)] = WindowRow(
            id=window.record_id,
            path=window.path,
            line=window.line,
            start=window.start,
            window=window.window,
            windows=window.windows,
            text=text,
            token_ids=window.token_ids,
            offsets=offsets,
            labels=window.labels,
            loss=means[i],
            grad_norm=float(records.norm_NB[1, i]),
            haif_norm=float(records.norm_NB[0, i]),
            vector=vectors[i],
            token_loss=losses[i, :length].astype(np.float32),
            token_grad_norm=norms[i, :length],
            token_vectors=None if token_vectors is None else token_vectors[i, :length],
            content_hash=window.content_hash,
            group=window.group,
        )
    return rows


def _own_text(window: Window) -> tuple[str, list[tuple[int, int]]]:
    """The part of the record's text that the window covers, and the offsets in it."""
    if window.windows == 1 and window.start == 0:
        return window.text, window.offsets
    covered = [span for span in window.offsets if span != (0, 0)]
    if not covered:
        return "", window.offsets
    first, last = covered[0][0], max(end for _, end in covered)
    shifted = [
        (0, 0) if span == (0, 0) else (span[0] - first, span[1] - first) for span in window.offsets
    ]
    return window.text[first:last], shifted
