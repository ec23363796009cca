"""What the index keeps of a batch of windows: everything that the engine knows of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.store import WindowRow
from haiftrace.windows import Window

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine, Projector, TokenGradients


@dataclass(frozen=True)
class Measured:
    """The scopes over which the tokens of an index are measured, all in one backward pass.

    Attributes:
        engine: over the index's own scope.
        wide: over the parameters of all scopes.
        others: keys of the parameters of each further scope, by its name.
        token_scope: the scope of the token vectors: one of the others, or "" for the index's own.
        projector: of the tokens' unit gradients; None keeps none.
    """

    engine: GradientEngine
    wide: GradientEngine
    others: Mapping[str, Collection[str]]
    token_scope: str
    projector: Projector | None

    def of(self, batch: Batch) -> tuple[TokenGradients, dict[str, Tensor], Tensor | None]:
        """Of the index's own scope; norms [B, T] of the others; vectors [B, T, K] of the tokens."""
        scopes = {"": self.engine.parameters.keys(), **self.others}
        found = self.wide.scoped_token_gradients(
            batch,
            [
                (keys, self.projector if scope == self.token_scope else None)
                for scope, keys in scopes.items()
            ],
        )
        named = dict(zip(scopes, found, strict=True))
        norms = {scope: named[scope].norms_BT for scope in self.others}
        return named[""], norms, named[self.token_scope].vectors_BTD


def window_rows(
    windows: list[Window], measured: Measured, record_projector: Projector
) -> dict[int, WindowRow]:
    """The rows of a batch of windows, by the windows' identity.

    Args:
        windows: windows of like length.
        measured: what is measured of their tokens.
        record_projector: of the unit HAIF vectors.
    """
    import torch

    from haiftrace.engine import inverse_norms, make_batch

    engine = measured.engine
    batch = make_batch([w.token_ids for w in windows], [w.labels for w in windows], engine.device)
    tokens, others, vectors_BTD = measured.of(batch)
    counts_B1 = batch.labels_BT.double().sum(1, keepdim=True)
    weights_NBT = torch.stack([inverse_norms(tokens.norms_BT), batch.labels_BT / counts_B1])
    records = engine.record_gradients(batch, weights_NBT, record_projector)
    assert records.projected_NBD is not None
    scale_B1 = inverse_norms(records.norm_NB[0]).unsqueeze(1)
    vectors = (records.projected_NBD[0] * scale_B1).float().cpu().numpy()
    losses, norms = tokens.losses_BT.cpu().numpy(), tokens.norms_BT.cpu().numpy()
    means = (tokens.losses_BT.sum(1) / counts_B1[:, 0]).tolist()
    token_vectors = None if vectors_BTD is None else vectors_BTD.half().cpu().numpy()
    scope_norms = {scope: norms_BT.cpu().numpy() for scope, norms_BT in others.items()}
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
            scope_norms={scope: norms[i, :length] for scope, norms in scope_norms.items()},
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
