"""Whether the model learnt a record at all: one that it hardly knows taught it nothing.

Influence knows whom an answer is about. A record on the same person that the model was never
trained on, or that says otherwise than those that it was, comes first where the source is missing;
that the model is surprised at its words tells them apart.
"""

from __future__ import annotations

import numpy as np

LEAST_WINDOWS = 20
"""Of fewer nothing is said."""
SPREADS = 3.0
"""Of a normal distribution two standard deviations: 2 % of what was learnt are beyond."""
LEAST_DISTANCE = 0.1
"""Nats a token above the median that are nothing yet."""


def hardly_known(losses_N: np.ndarray) -> float:
    """The loss, in nats a token, from which on the model hardly knows a window of the corpus.

    By the lower half of the losses alone, which records that it never saw do not reach: as far
    above the median as `SPREADS` times what the lower quartile is below it. Infinite where there
    are too few windows to tell.

    Args:
        losses_N: each window's mean loss.
    """
    if len(losses_N) < LEAST_WINDOWS:
        return float("inf")
    lower, median = np.quantile(losses_N, [0.25, 0.5])
    return float(median + max(SPREADS * (median - lower), LEAST_DISTANCE))
