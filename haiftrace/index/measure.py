"""What the index keeps of a batch of windows: the model's losses and token gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.corpus.windows import Window
from haiftrace.store import WindowRow, encode_signs

if TYPE_CHECKING:
    from haiftrace.engine import TokenSimilarity


def window_rows(
    windows: Sequence[Window], similarity: TokenSimilarity, dimension: int, seed: int
) -> dict[int, WindowRow]:
    """The rows of a batch of windows, by the windows' identity.

    Args:
        windows: windows of like length.
        dimension: of the tokens' projected unit gradients; 0 keeps none.
        seed: of their projection.
    """
    from haiftrace.engine import make_batch

    ids, labels = [w.token_ids for w in windows], [w.labels for w in windows]
    batch = make_batch(ids, labels, similarity.device)
    measures = similarity.measures(batch, dimension, seed)
    losses, norms = measures.losses_BT.cpu().numpy(), measures.norms_BT.cpu().numpy()
    codes = None
    if measures.vectors_BTK is not None:
        vectors = measures.vectors_BTK.float().cpu().numpy()
        codes = encode_signs(vectors)
        # Signs do not tell what is not finite: such a row is refused by its norm.
        norms = np.where(np.isfinite(vectors).all(-1), norms, np.nan)
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
            loss=float(losses[i].sum()) / max(1, sum(window.labels)),
            token_loss=losses[i, :length].astype(np.float32),
            token_grad_norm=norms[i, :length],
            token_codes=None if codes is None else codes[i, :length],
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
