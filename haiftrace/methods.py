"""The registry of influence functions: how each turns token dot products into a score.

With `d_j = v·g_kj` the exact dot products of query and token gradients, every method here scores a
record window by `Σ_j a_j d_j`, `a_j` depending on norms that the index holds; `a_j d_j` is the
evidence of token j. A further method is a further entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from haiftrace.errors import UsageError


@dataclass(frozen=True)
class WindowNorms:
    """The norms of one record window, over T tokens.

    Attributes:
        labels: [T] True where the token is a label.
        token_norms: [T] ‖g_kj‖, 0 where the token is no label.
        grad_norm: ‖(1/m) Σ_j g_kj‖.
        haif_norm: ‖s_k‖, s_k = Σ_j A(g_kj).
    """

    labels: np.ndarray
    token_norms: np.ndarray
    grad_norm: float
    haif_norm: float


@dataclass(frozen=True)
class Method:
    """One influence function.

    Attributes:
        name: as on the command line.
        summary: what it computes, with its source.
        token_weights: the [T] factors a_j that make the record-side vector r = Σ_j a_j g_kj.
        record_norm: ‖r‖.
        over_query_norm: whether the score is divided by ‖v‖.
        shortlist_column: which column of the index turns the inner product with the unit HAIF
            vector into this method's: a column's name, "" for none needed; None where the index
            holds no fitting vector, so that every record has to be scored.
    """

    name: str
    summary: str
    token_weights: Callable[[WindowNorms], np.ndarray]
    record_norm: Callable[[WindowNorms], float]
    over_query_norm: bool = False
    shortlist_column: str | None = None

    def evidence(self, dots: np.ndarray, norms: WindowNorms, query_norm: float) -> np.ndarray:
        """[T] each token's share of the score, which is their sum.

        Args:
            dots: [T] exact v·g_kj.
            query_norm: ‖v‖.
        """
        weighted = self.token_weights(norms) * dots
        return weighted * _inverse(query_norm) if self.over_query_norm else weighted

    def cosine(self, score: float, norms: WindowNorms, query_norm: float) -> float:
        """The cosine of the angle between v and the record-side vector."""
        length = 1.0 if self.over_query_norm else query_norm
        cosine = score * _inverse(length) * _inverse(self.record_norm(norms))
        return min(1.0, max(-1.0, cosine))  # rounding must not lead out of its range


def _inverse(value: float) -> float:
    return 1.0 / value if value > 0 else 0.0


def _mean_weights(norms: WindowNorms) -> np.ndarray:
    return norms.labels / max(1, int(norms.labels.sum()))


def _unit_weights(norms: WindowNorms) -> np.ndarray:
    """W(‖g‖) = 1/‖g‖, A(0) = 0."""
    weights = np.zeros_like(norms.token_norms)
    np.divide(1.0, norms.token_norms, out=weights, where=norms.token_norms > 0)
    return weights


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "haif",
            "v · A(Σ_j A(g_kj)), A(x) = x/‖x‖ (Liu and Yang 2024, eq. 23)",
            lambda n: _unit_weights(n) * _inverse(n.haif_norm),
            lambda n: 1.0 if n.haif_norm > 0 else 0.0,
            shortlist_column="",
        ),
        Method(
            "haif-t",
            "v · Σ_j A(g_kj) (Liu and Yang 2024, eq. 23 without the outer A)",
            _unit_weights,
            lambda n: n.haif_norm,
            shortlist_column="haif_norm",
        ),
        Method(
            "gradient-product",
            "v · (1/m) Σ_j g_kj (an influence function with the identity for the Hessian)",
            _mean_weights,
            lambda n: n.grad_norm,
        ),
        Method(
            "gradient-cosine",
            "the cosine of v and Σ_j g_kj (relative influence with the identity Hessian)",
            lambda n: _mean_weights(n) * _inverse(n.grad_norm),
            lambda n: 1.0 if n.grad_norm > 0 else 0.0,
            over_query_norm=True,
        ),
    )
}
DEFAULT_METHOD = "haif"


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"There is no method '{name}'.", f"Choose one of {', '.join(METHODS)}.")
    return METHODS[name]
