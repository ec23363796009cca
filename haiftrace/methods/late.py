"""Late interaction: query tokens meet a record's tokens one by one, and strong pairs count most.

With C_kjq = cos(g_q, g_kj) over the method's scope, of query token q and label j of record k with m
labels, `y_kq = (m^(-1/2) Σ_j max(0, C_kjq)^p)^(1/p)`. HAIF-R takes one direction, the gradient of
the query's mean loss, and scores `y_k`: so the tokens of the query that the model was least sure of
ask. HAIF-RQ takes every query token's own gradient and scores the mean of the y_kq, HAIF-LI
`Σ_q max(0, (y_kq - median_k y_kq) / sd_k y_kq)`, median and deviation over a reference of the
corpus, and HAIF-RLI the geometric mean of HAIF-R's score and HAIF-LI's: what the model was unsure
of counts in the one, and all that it said in the other.
Along a training run y is the mean of those at its checkpoints θ_t, each with the gradients of query
and record that it has there; HAIF-RCP is HAIF-RQ with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_DEVIATION = 1e-3
"""Floor under the deviation: y is a cosine's size, and differences below this mean nothing."""


def meeting(cosines: np.ndarray, power: float, error: float = 0.0) -> np.ndarray:
    """max(0, C)^p, of any shape.

    Args:
        error: the variance of the cosines' own error, where they are estimates. A normal error adds
            p (p-1)/2 C^(p-2) times that to the mean of C^p, and for p of 2 and 3 nothing else: it
            is taken off, down to zero. Many weak cosines would else make up for a strong one.
    """
    cosines = np.maximum(cosines, 0.0)
    met = cosines**power
    added = power * (power - 1) / 2 * error
    if added > 0:
        met *= 1 - added / np.maximum(cosines**2, added)
    return np.asarray(met)


def strengths(cosines_QM: np.ndarray, power: float, error: float = 0.0) -> np.ndarray:
    """[Q] the strength y, of one record's cosines with its m labels.

    Args:
        error: see `meeting`.
    """
    labels = max(1, cosines_QM.shape[1])
    met_QM = meeting(cosines_QM, power, error)
    return np.asarray((met_QM.sum(1) / np.sqrt(labels)) ** (1 / power))


@dataclass(frozen=True)
class Reference:
    """Median and deviation [Q] of y over the reference's windows."""

    median: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, strengths_KQ: np.ndarray) -> Reference:
        """Of these windows' strengths."""
        deviation = np.maximum(strengths_KQ.std(0), LEAST_DEVIATION)
        return cls(np.median(strengths_KQ, 0), deviation)

    def above(self, strengths_KQ: np.ndarray) -> np.ndarray:
        """max(0, z) [K, Q]."""
        return np.asarray(np.maximum((strengths_KQ - self.median) / self.deviation, 0.0))


def query_shares(
    strengths_KQ: np.ndarray, directions: int, reference: Reference | None
) -> np.ndarray:
    """[K, Q] what each query direction adds to the score: its part of their mean, or its z-score.

    Args:
        directions: of the whole question, which these may be some of.
        reference: what z-scores are taken over; None for the mean.
    """
    return strengths_KQ / directions if reference is None else reference.above(strengths_KQ)


def with_whole(tokens_K: np.ndarray, whole_K: np.ndarray) -> np.ndarray:
    """[K] the geometric mean of what the tokens score and the whole's strength."""
    return np.asarray(np.sqrt(tokens_K * whole_K))


def shares_with_whole(shares_KQ: np.ndarray, whole_K: np.ndarray) -> np.ndarray:
    """[K, Q + 1] what the tokens' directions add to the geometric mean, and last the whole's.

    Half of it is the whole's and half the tokens', as a geometric mean grows by half a per cent
    with a per cent of either.

    Args:
        shares_KQ: what each token adds to their own score.
    """
    tokens_K = shares_KQ.sum(1)
    half_K = with_whole(tokens_K, whole_K) / 2
    part_K = np.divide(half_K, tokens_K, out=np.zeros_like(half_K), where=tokens_K > 0)
    return np.column_stack([shares_KQ * part_K[:, None], half_K])


def divided_among_tokens(
    whole_M: np.ndarray, cosines_QM: np.ndarray, norms_Q: np.ndarray
) -> np.ndarray:
    """[Q, M] the whole's evidence of each label as that of pairs with the query's tokens.

    The whole's direction is the mean of the tokens' gradients, so its cosine with a label is a sum
    over the tokens, in proportion to ‖g_q‖ C_jq: the positive ones divide the evidence.

    Args:
        whole_M: of each label, by the whole's direction.
        cosines_QM: those of the tokens' directions.
        norms_Q: ‖g_q‖.
    """
    parts_QM = np.maximum(cosines_QM * norms_Q[:, None], 0.0)
    total_M = parts_QM.sum(0)
    alike = np.full_like(parts_QM, 1 / len(norms_Q))
    parts_QM = np.divide(parts_QM, total_M, out=alike, where=total_M > 0)
    return np.asarray(parts_QM * whole_M)


def evidence(cosines_QM: np.ndarray, shares_Q: np.ndarray, power: float) -> np.ndarray:
    """[Q, M] what each pair adds: a query token's share of the score, divided by max(0, C)^p."""
    met_QM = meeting(cosines_QM, power)
    total_Q1 = met_QM.sum(1, keepdims=True)
    divided = np.divide(met_QM, total_Q1, out=np.zeros_like(met_QM), where=total_Q1 > 0)
    return np.asarray(divided * shares_Q[:, None])


def evidence_along(
    cosines_TQM: Sequence[np.ndarray], shares_Q: np.ndarray, power: float
) -> np.ndarray:
    """The same along a run: of a share each checkpoint divides a part, by its own strength."""
    strengths_TQ = np.stack([strengths(cosines_QM, power) for cosines_QM in cosines_TQM])
    total_Q = strengths_TQ.sum(0)
    parts_TQ = np.divide(strengths_TQ, total_Q, out=np.zeros_like(strengths_TQ), where=total_Q > 0)
    each = [
        evidence(cosines_QM, parts_Q * shares_Q, power)
        for cosines_QM, parts_Q in zip(cosines_TQM, parts_TQ, strict=True)
    ]
    return np.asarray(np.sum(each, axis=0))
