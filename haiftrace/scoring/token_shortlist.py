"""Late interaction estimated from the index's token vectors: the shortlist of its exact scores.

An index keeps the projection of every label token's unit gradient. Its inner product with that of a
query token's is an unbiased estimate of their cosine, with an error of variance 1/K, so that one
scan of the vectors estimates the score of every window by the method's own rule, less what that
error adds; the best are the candidates. A vector a window, as other methods have it, is a sum over
its tokens, which the strong pairs are lost in.

Shape letters: N windows, Q query directions, K dimensions of a token's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import Reference, meeting, query_shares, with_whole
from haiftrace.methods.settings import LateSettings
from haiftrace.scoring.directions import Question
from haiftrace.scoring.sides import Side, distinct, sides_of
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine, Projector

_MATRIX_BYTES = 256 << 20
_KEPT_VECTORS = 1024  # a shortlist, its reference and its verdict ask the same


def token_scope(index: Index) -> str:
    """The scope that an index's token vectors are over."""
    return str(index.settings.get("token_scope", index.settings["scope"]))


def why_without(index: Index, scope: str) -> str | None:
    """Why an index's token vectors do not rank for late interaction over a scope; None if they do.

    Reads as the end of a sentence.
    """
    if index.manifest.token_faiss is None:
        again = "haiftrace index --overwrite --token-vectors 1024"
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
        self._asked: dict[object, np.ndarray] = {}

    @cached_property
    def _projector(self) -> Projector:
        return self._engine.projector(self._dimension, self._seed)

    @property
    def _together(self) -> int:
        """Directions at a time: strengths of all windows are needed at once."""
        return max(1, _MATRIX_BYTES // (8 * self._windows))

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
        each = [sides_of(method, question) for question in questions]
        counts = [len(one) for one in each]
        sides, place_S = distinct([side for one in each for side in one])
        owner = np.repeat(np.arange(len(each)), counts)
        # The whole's direction is the last of a question's.
        ends = np.isin(np.arange(len(owner)), np.cumsum(counts) - 1) & method.with_whole
        queries_DK = self._vectors(sides)
        scores, wholes = (np.zeros((len(each), self._windows)) for _ in range(2))
        together = self._together
        for start in range(0, len(sides), together):
            strengths_ND = self.strengths(queries_DK[start : start + together])
            here = (place_S >= start) & (place_S < start + together)
            for number in np.unique(owner[here]):
                mine = here & (owner == number)
                tokens_NQ, whole_NQ = (
                    strengths_ND[:, place_S[mine & which] - start] for which in (~ends, ends)
                )
                scores[number] += combined(method, tokens_NQ, counts[number])
                wholes[number] += whole_NQ.sum(1)
        return with_whole(scores, wholes) if method.with_whole else scores

    def reference(self, method: LateMethod, question: Question) -> Reference:
        """Of the estimates of all windows, for the question's tokens: what z-scores are over."""
        sides = sides_of(method, question)
        queries_QK = self._vectors(sides[:-1] if method.with_whole else sides)
        parts = [
            Reference.of(self.strengths(queries_QK[start : start + self._together]))
            for start in range(0, len(queries_QK), self._together)
        ]
        return Reference(
            np.concatenate([part.median for part in parts]),
            np.concatenate([part.deviation for part in parts]),
        )

    def _vectors(self, sides: Sequence[Side]) -> np.ndarray:
        """[S, K] the projections of sides; those of the last questions are at hand."""
        asks = [side.asks for side in sides]
        if not all(ask in self._asked for ask in asks):
            vectors = vectors_of(sides, self._engine, self._projector)
            if len(self._asked) > _KEPT_VECTORS:
                self._asked.clear()
            self._asked |= dict(zip(asks, vectors, strict=True))
            return vectors
        return np.stack([self._asked[ask] for ask in asks])

    def strengths(self, queries_QK: np.ndarray) -> np.ndarray:
        """[N, Q] the estimated strength y of every window and direction (see `methods.late`)."""
        sums_NQ = np.zeros((self._windows, len(queries_QK)))
        counts_N = np.ones(self._windows)
        for rows, counts, cosines in self._search.products(queries_QK):
            filled = np.flatnonzero(counts)
            if not len(filled):
                continue
            starts = np.cumsum(counts) - counts
            met = meeting(cosines, self._power, 1 / self._dimension)
            sums_NQ[rows.start + filled] = np.add.reduceat(met, starts[filled], axis=0)
            counts_N[rows.start + filled] = counts[filled]
        return np.asarray((sums_NQ / np.sqrt(counts_N)[:, None]) ** (1 / self._power))


def vectors_of(sides: Sequence[Side], engine: GradientEngine, projector: Projector) -> np.ndarray:
    """[S, K] the projected unit gradients of sides.

    Args:
        engine: over the scope of the vectors that they meet.
    """
    found: list[np.ndarray] = []
    for _, some in groupby(sides, key=lambda side: (id(side.batch), side.of_one_token)):
        of_question = list(some)
        if of_question[0].of_one_token:
            found.append(_of_tokens(of_question, engine, projector))
        else:
            found += [_of_mean(side, engine, projector)[None] for side in of_question]
    return np.concatenate(found)


def _of_tokens(sides: Sequence[Side], engine: GradientEngine, projector: Projector) -> np.ndarray:
    """[S, K] of different tokens of one question: passes are shared."""
    import torch

    batch = sides[0].batch
    places = [int(side.weights_BT[0].argmax()) for side in sides]
    labels_BT = torch.zeros_like(batch.labels_BT)
    labels_BT[0, places] = True
    tokens = engine.token_gradients(replace(batch, labels_BT=labels_BT), projector)
    assert tokens.vectors_BTD is not None
    found: np.ndarray = tokens.vectors_BTD[0].double().cpu().numpy()[places]
    return found


def _of_mean(side: Side, engine: GradientEngine, projector: Projector) -> np.ndarray:
    """[K] of a direction that several tokens have."""
    reduced = engine.record_gradients(side.batch, side.weights_BT[None], projector)
    assert reduced.projected_NBD is not None
    norm = float(reduced.norm_NB[0, 0])
    mean: np.ndarray = reduced.projected_NBD[0, 0].double().cpu().numpy()
    return mean / norm if norm > 0 else mean


def combined(method: LateMethod, strengths_NQ: np.ndarray, directions: int) -> np.ndarray:
    """[N] what strengths add to the scores, z-scores over all of them.

    Args:
        directions: of the whole question, which these may be some of.
    """
    reference = Reference.of(strengths_NQ) if method.standardised else None
    return np.asarray(query_shares(strengths_NQ, directions, reference).sum(1))
