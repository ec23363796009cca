"""The layerwise rule: every layer judges by itself which records are close to a query token.

With C^ℓ_kjq the cosine of label j of record k and query token q in layer ℓ, and m labels, the
pooled similarity is

    y^ℓ_kq = (m^(-1/2) Σ_j w_kj max(0, C^ℓ_kjq)³)^(1/3),
    w_kj = exp(-¼ max(0, s_kj - s̄)),  s_kj = l_kj + 0.8 s_k(j-1).

The pairs that agree most count most, and a token counts less where it, or what stands before it,
surprises the model more than is usual: what the model has not learnt cannot have taught the answer.
l are losses in nats, and s̄ is the median over a reference of record windows of their mean s: a text
that the model knows as little as all the others is not held against a record. z^ℓ_kq is how far y
stands above the reference, in standard deviations, and a record's score

    Σ_q Σ_ℓ max(0, z^ℓ_kq)².

Records differ in one or a few layers, other layers for each answer and model: squares let these
count, where one cosine similarity over all layers together drowns them.

Shape letters: W windows, Q query tokens, L layers, J labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POWER = 3
"""Of the cosines in the pooled similarity."""

SURPRISE, RECENCY = 0.25, 0.8
"""Of the weights w: how much surprise takes from a token, and how much of it each next one has."""

_RECENT = 125
"""Tokens whose losses still count: of those before, less than 1e-12."""

LEAST_DEVIATION = 1e-3
"""Floor under the deviation: y is a cosine's size, and differences below this mean nothing."""

REFERENCE = 256
"""Windows of a reference; all of a corpus do no better."""


@dataclass(frozen=True)
class Reference:
    """Median and standard deviation of the pooled similarity over the reference's windows.

    Attributes:
        median_QL, deviation_QL: for each query token and layer.
    """

    median_QL: np.ndarray
    deviation_QL: np.ndarray

    @classmethod
    def of(cls, pooled_WQL: np.ndarray) -> Reference:
        """Of these windows."""
        deviation_QL = np.maximum(pooled_WQL.std(0), LEAST_DEVIATION)
        return cls(np.median(pooled_WQL, 0), deviation_QL)

    def subset(self, places: Sequence[int] | slice) -> Reference:
        """Of the query tokens at these places."""
        return Reference(self.median_QL[places], self.deviation_QL[places])

    def contributions(self, pooled_WQL: np.ndarray) -> np.ndarray:
        """[W, Q, L] what each query token and layer adds to a window's score."""
        z_WQL = (pooled_WQL - self.median_QL) / self.deviation_QL
        return np.asarray(np.maximum(z_WQL, 0.0) ** 2)


def surprise(losses_J: np.ndarray, window_J: np.ndarray) -> np.ndarray:
    """[J] s of labels, given their losses in nats and the window that each is in.

    The labels of a window stand together, in order.
    """
    surprise_J = np.array(losses_J, dtype=np.float64)
    for back in range(1, min(_RECENT, len(surprise_J))):
        same = window_J[back:] == window_J[:-back]
        if not same.any():
            break
        surprise_J[back:] += np.where(same, RECENCY**back * losses_J[:-back], 0.0)
    return surprise_J


def usual_surprise(losses_J: np.ndarray, window_J: np.ndarray) -> float:
    """s̄: the median over windows of the mean s of their labels; 0 where there are none."""
    if not len(losses_J):
        return 0.0
    begins = np.flatnonzero(np.diff(window_J, prepend=window_J[0] - 1))
    counts = np.diff(begins, append=len(window_J))
    return float(np.median(np.add.reduceat(surprise(losses_J, window_J), begins) / counts))


def learnt_weights(losses_J: np.ndarray, window_J: np.ndarray, usual: float) -> np.ndarray:
    """[J] the weights w of labels.

    Args:
        losses_J, window_J: as in `surprise`.
        usual: s̄.
    """
    above_J = np.maximum(surprise(losses_J, window_J) - usual, 0.0)
    return np.asarray(np.exp(-SURPRISE * above_J))
