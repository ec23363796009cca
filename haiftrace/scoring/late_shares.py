"""What query directions of late interaction add to a score, and what they are compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import Reference, query_shares, shares_with_whole
from haiftrace.methods.settings import REFERENCE, LateSettings
from haiftrace.scoring.directions import Question
from haiftrace.scoring.token_shortlist import TokenShortlist
from haiftrace.store import Index
from haiftrace.store.sample import sample_rows


class LateShares:
    """Shares over one index.

    Args:
        estimates: whose estimates of all windows z-scores are over; None for the strengths of a
            seeded sample, which is then scored beside whatever is.
    """

    def __init__(
        self, index: Index, settings: LateSettings, estimates: TokenShortlist | None
    ) -> None:
        self._index = index
        self._settings = settings
        self._estimates = estimates

    @cached_property
    def _reference_rows(self) -> list[int]:
        """The windows that strengths are compared with: all, or a seeded sample."""
        count = self._settings.reference or REFERENCE
        return sample_rows(self._index, count, self._settings.seed)

    def rows(self, methods: Sequence[LateMethod], rows: Collection[int]) -> Sequence[int]:
        """What is scored: these windows, and those that methods compare them with."""
        by_sample = self._estimates is None and any(method.standardised for method in methods)
        return sorted({*rows, *(self._reference_rows if by_sample else ())})

    def of(
        self,
        method: LateMethod,
        question: Question,
        rows: Sequence[int],
        strengths_KS: np.ndarray,
    ) -> np.ndarray:
        """[K, S] what each of a question's sides adds to the score.

        Args:
            rows: the windows of the strengths: all of `rows`.
        """
        tokens_KQ = strengths_KS[:, :-1] if method.with_whole else strengths_KS
        reference = self._reference(question, method, rows, tokens_KQ)
        shares_KQ = query_shares(tokens_KQ, tokens_KQ.shape[1], reference)
        return shares_with_whole(shares_KQ, strengths_KS[:, -1]) if method.with_whole else shares_KQ

    def _reference(
        self, question: Question, method: LateMethod, rows: Sequence[int], strengths_KQ: np.ndarray
    ) -> Reference | None:
        if not method.standardised:
            return None
        if self._estimates is not None:
            return self._estimates.reference(method, question)
        place = {row: k for k, row in enumerate(rows)}
        return Reference.of(strengths_KQ[[place[row] for row in self._reference_rows]])
