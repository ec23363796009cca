"""A window's score by the layerwise rule as evidence: of pairs of tokens, and of layers.

What a query token and a layer add to the score, max(0, z)², is divided among the window's labels by
w max(0, C)³, which it was pooled from.

Shape letters: T tokens of the window, Q query tokens, L layers, M labels of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from haiftrace.methods.layerwise import POWER, Reference
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.store import StoredWindow


def explained(
    window: StoredWindow,
    powers_LMQ: np.ndarray,
    reference: Reference,
    places: Sequence[int],
    skipped: int = 0,
) -> ScoredWindow:
    """A window with its score, and the evidence that sums to it.

    Args:
        powers_LMQ: w max(0, C)³.
        reference: of the query's tokens.
        places: position in the query of each query token.
        skipped: layers of the model below the first that judges: they add nothing.
    """
    labels = np.asarray(window.labels)
    sums_LQ = powers_LMQ.sum(1)
    pooled_QL = (sums_LQ.T / np.sqrt(max(1, int(labels.sum())))) ** (1 / POWER)
    contributions_QL = reference.contributions(pooled_QL[None])[0]
    divided_LMQ = np.divide(
        powers_LMQ,
        sums_LQ[:, None],
        out=np.zeros_like(powers_LMQ),
        where=sums_LQ[:, None] > 0,
    )
    pairs_QT = np.zeros((len(places), len(labels)))
    pairs_QT[:, labels] = np.einsum("lmq,ql->qm", divided_LMQ, contributions_QL)
    return ScoredWindow(
        window,
        float(contributions_QL.sum()),
        None,
        pairs_QT.sum(0),
        dict(zip(places, pairs_QT, strict=True)),
        (0.0,) * skipped + tuple(contributions_QL.sum(0).tolist()),
    )
