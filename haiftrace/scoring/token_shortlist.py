"""Late interaction estimated from the index's token vectors: the shortlist of its exact scores.

An index keeps the projection of every label token's unit gradient. Its inner product with that of a
query token's is an unbiased estimate of their cosine, so that one scan of the vectors estimates the
score of every window by the method's own rule; the best are the candidates. A vector a window, as
other methods have it, is a sum over its tokens, which the strong pairs are lost in.

Shape letters: N windows, Q query directions, K dimensions of a token's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import Reference, meeting
from haiftrace.methods.settings import LateSettings
from haiftrace.scoring.directions import Question
from haiftrace.scoring.sides import sides_of
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine, Projector

_MATRIX_BYTES = 256 << 20


def token_scope(index: Index) -> str:
    """The scope that an index's token vectors are over."""
    return str(index.settings.get("token_scope", index.settings["scope"]))


def why_without(index: Index, scope: str) -> str | None:
    """Why an index's token vectors do not rank for late interaction over a scope; None if they do.

    Reads as the end of a sentence.
    """
    if index.manifest.token_faiss is None:
        again = "haiftrace index --overwrite --token-vectors 512"
        return f"the index holds no token vectors to search ({again})"
    if token_scope(index) != scope:
        return f"the index's token vectors are over {token_scope(index)!r}, not over {scope!r}"
    return None


class TokenShortlist:
    """Estimates of late interaction over one index.

    Args:
        index: one that `why_without` has nothing to say of.
        engine: over the scope of its token vectors.
        settings: whose power is taken.
    """

    def __init__(self, index: Index, engine: GradientEngine, settings: LateSettings) -> None:
        search = index.token_search
        assert search is not None
        self._search = search
        self._windows = len(index)
        self._dimension, self._seed = index.layout.token_vectors, index.settings["seed"]
        self._engine = engine
        self._power = settings.power

    @cached_property
    def _projector(self) -> Projector:
        return self._engine.projector(self._dimension, self._seed)

    def proposed(self, method: LateMethod, question: Question, count: int) -> list[int]:
        """Rows of the windows with the largest estimated scores, best first, ties by row."""
        order = np.argsort(-self.scores(method, question), kind="stable")
        return [int(row) for row in order[:count]]

    def scores(self, method: LateMethod, question: Question) -> np.ndarray:
        """[N] every window's estimated score; a z-score is over the estimates of all of them."""
        (scores_N,) = self.scores_of_many(method, [question])
        return scores_N

    def scores_of_many(self, method: LateMethod, questions: Sequence[Question]) -> np.ndarray:
        """The same of several questions, [questions, N]: their directions share the scans."""
        each = [queries(method, question, self._engine, self._projector) for question in questions]
        owner = np.repeat(np.arange(len(each)), [len(one) for one in each])
        queries_QK = np.concatenate(each)
        scores = np.zeros((len(each), self._windows))
        # Strengths of all windows are needed at once: of some of the directions at a time.
        together = max(1, _MATRIX_BYTES // (8 * self._windows))
        for start in range(0, len(queries_QK), together):
            strengths_NQ = self.strengths(queries_QK[start : start + together])
            of_question = owner[start : start + together]
            for number in np.unique(of_question):
                some_NQ = strengths_NQ[:, of_question == number]
                scores[number] += combined(method, some_NQ, len(each[number]))
        return scores

    def strengths(self, queries_QK: np.ndarray) -> np.ndarray:
        """[N, Q] the estimated strength y of every window and direction (see `methods.late`)."""
        sums_NQ = np.zeros((self._windows, len(queries_QK)))
        counts_N = np.ones(self._windows)
        for rows, counts, cosines in self._search.products(queries_QK):
            filled = np.flatnonzero(counts)
            if not len(filled):
                continue
            starts = np.cumsum(counts) - counts
            met = meeting(cosines, self._power)
            sums_NQ[rows.start + filled] = np.add.reduceat(met, starts[filled], axis=0)
            counts_N[rows.start + filled] = counts[filled]
        return np.asarray((sums_NQ / np.sqrt(counts_N)[:, None]) ** (1 / self._power))


def queries(
    method: LateMethod, question: Question, engine: GradientEngine, projector: Projector
) -> np.ndarray:
    """[Q, K] the projected unit gradients that a method asks with.

    Args:
        engine: over the scope of the vectors that they meet.
    """
    sides = sides_of(method, question)
    batch = sides[0].batch
    if method.by_token:
        tokens = engine.token_gradients(batch, projector)
        assert tokens.vectors_BTD is not None
        labels_T = batch.labels_BT[0].cpu().numpy().astype(bool)
        each: np.ndarray = tokens.vectors_BTD[0].double().cpu().numpy()[labels_T]
        return each
    reduced = engine.record_gradients(batch, sides[0].weights_BT[None], projector)
    assert reduced.projected_NBD is not None
    norm = float(reduced.norm_NB[0, 0])
    mean: np.ndarray = reduced.projected_NBD[0].double().cpu().numpy()
    return mean / norm if norm > 0 else mean


def combined(method: LateMethod, strengths_NQ: np.ndarray, directions: int) -> np.ndarray:
    """[N] what strengths add to the scores, z-scores over all of them.

    Args:
        directions: of the whole question, which these may be some of.
    """
    if not method.standardised:
        return np.asarray(strengths_NQ.sum(1) / directions)
    return np.asarray(Reference.of(strengths_NQ).above(strengths_NQ).sum(1))
