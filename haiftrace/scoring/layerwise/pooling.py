"""Cosines of token gradients, pooled over each window's labels (see `methods.layerwise`).

Shape letters: W windows, Q query tokens, L layers, J labels of all windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.layerwise import POWER, learnt_weights

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, TokenSimilarity
    from haiftrace.engine.similarity import QueryGradients


def powered_layers(
    similarity: TokenSimilarity, batch: Batch, queries: QueryGradients, usual: float
) -> Iterator[Tensor]:
    """[J, Q] w max(0, C)³ of a batch's labels, a layer each.

    Args:
        usual: the surprise that is usual in the corpus.
    """
    import torch

    losses_J, layers = similarity.cosines(batch, queries)
    window_J = batch.labels_BT.nonzero()[:, 0].cpu().numpy()
    weights_J = torch.from_numpy(learnt_weights(losses_J.cpu().numpy(), window_J, usual))
    for cosines_JQ in layers:
        weights_J1 = weights_J.to(cosines_JQ).unsqueeze(1)
        yield cosines_JQ.clamp_(min=0).pow_(POWER).mul_(weights_J1)


def pooled_similarity(
    similarity: TokenSimilarity, batch: Batch, queries: QueryGradients, usual: float
) -> np.ndarray:
    """[W, Q, L] the pooled similarity of every window and query token in every layer, float64."""
    import torch

    row_J = batch.labels_BT.nonzero()[:, 0]
    labels_W1 = batch.labels_BT.sum(1, keepdim=True).clamp_min(1)
    pooled = []
    for powers_JQ in powered_layers(similarity, batch, queries, usual):
        sums_WQ = powers_JQ.new_zeros(batch.size, queries.count).index_add_(0, row_J, powers_JQ)
        pooled.append((sums_WQ / labels_W1.sqrt()) ** (1 / POWER))
    pooled_WQL: np.ndarray = torch.stack(pooled, -1).double().cpu().numpy()
    return pooled_WQL
