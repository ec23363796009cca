"""A window's score by late interaction as evidence of pairs: of the query's tokens and its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import divided_among_tokens, evidence_along
from haiftrace.scoring.best import Scored
from haiftrace.scoring.directions import Question
from haiftrace.scoring.sides import asking_batch, places_of
from haiftrace.store import StoredWindow

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine


class Pairing:
    """How one question's shares of a score become evidence.

    Args:
        engine: over the scope of the method.
    """

    def __init__(
        self, method: LateMethod, question: Question, engine: GradientEngine, power: float
    ) -> None:
        self._places = places_of(method, question)
        self._power = power
        self._norms_Q: np.ndarray | None = None
        if method.with_whole:
            self._places = self._places[:-1]
            norms_BT = engine.token_gradients(asking_batch(question)).norms_BT
            self._norms_Q = norms_BT[0].cpu().numpy()[np.array(self._places)]

    def scored(
        self, window: StoredWindow, cosines_TSM: Sequence[np.ndarray], shares_S: np.ndarray
    ) -> Scored:
        """A window with its evidence.

        Args:
            cosines_TSM: at each model, of the sides and the window's labels.
            shares_S: what each side adds to the score.
        """
        labels = np.asarray(window.labels)
        met_SM = evidence_along(cosines_TSM, shares_S, self._power)
        if self._norms_Q is not None:
            cosines_QM = np.mean(cosines_TSM, axis=0)[:-1]
            met_SM = met_SM[:-1] + divided_among_tokens(met_SM[-1], cosines_QM, self._norms_Q)
        pairs_QT = np.zeros((len(met_SM), len(labels)))
        pairs_QT[:, labels] = met_SM
        by_place = dict(zip(self._places, pairs_QT, strict=True))
        return Scored(window, float(shares_S.sum()), None, pairs_QT.sum(0), by_place)
