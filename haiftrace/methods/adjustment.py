"""The inner adjustment A(x) = W(‖x‖)·x of a token's gradient, W decreasing, A(0) = 0.

HAIF takes W(n) = 1/n (Liu and Yang 2024, eq. 23). `power:P` is W(n) = n^-P, so `power:1` is HAIF's
and `power:0` none at all; `soft:C` is W(n) = 1/(n + c), c the C-quantile of the corpus' token
norms, which leaves tokens with a small gradient nearly as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from haiftrace.errors import UsageError

_MOST = 10.0


@dataclass(frozen=True)
class Adjustment:
    """The weight W of a token gradient of norm n.

    Attributes:
        power: P of W(n) = n^-P; not looked at where `quantile` is given.
        quantile: C of W(n) = 1/(n + c).
    """

    power: float = 1.0
    quantile: float | None = None

    @classmethod
    def parse(cls, text: str) -> Adjustment:
        """Read `power:P` (P from 0 to 10) or `soft:C` (C from 0 to 1).

        Raises:
            UsageError: it is neither.
        """
        kind, _, number = text.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if kind == "power" and 0 <= value <= _MOST:
            return cls(power=value)
        if kind == "soft" and 0 <= value <= 1:
            return cls(quantile=value)
        raise UsageError(
            f"'{text}' is no adjustment of token gradients.",
            "Use --adjust power:P with P from 0 to 10 (power:1 is HAIF's, power:0 none), or"
            " --adjust soft:C with C from 0 to 1.",
        )

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.quantile is not None:
            return f"soft:{self.quantile:g}"
        return f"power:{self.power:g}"

    def weights(self, norms: np.ndarray, at_quantile: float = 0.0) -> np.ndarray:
        """W of each norm, 0 where the norm is 0.

        Args:
            norms: of any shape.
            at_quantile: c, the C-quantile of the corpus' token norms.
        """
        norms = np.asarray(norms, dtype=np.float64)
        weights = np.zeros_like(norms)
        positive = norms > 0
        if self.quantile is not None:
            np.divide(1.0, norms + at_quantile, out=weights, where=positive)
        else:
            np.power(norms, -self.power, out=weights, where=positive)
        return weights


HAIF = Adjustment()
