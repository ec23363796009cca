"""Exact scores by late interaction: every query direction meets every token of the windows.

The cosines are the dot products over the token norms. The index keeps the norms over a few scopes:
then a few directions share forward-mode passes, and only for more of them, or over another scope,
every token's gradient is formed. Query directions are taken in chunks that fit the memory; a
chunk is a pass through the windows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import Reference, evidence, strengths
from haiftrace.methods.settings import LateSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.best import Scored, Tally
from haiftrace.scoring.directions import Direction, Question, shares
from haiftrace.scoring.norms import at_tokens
from haiftrace.store import Index, StoredWindow
from haiftrace.store.sample import sample_rows

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine


SUPPLEMENT = "late-norms"
"""The supplement with token norms over a scope that the index's rows do not have."""


def scope_settings(scope: str) -> dict[str, str]:
    """What the supplement's norms depend on."""
    return {"scope": scope}


def in_rows(index: Index, scope: str) -> bool:
    """Whether the index's own rows hold token norms over a scope."""
    return scope in (index.settings["scope"], *index.layout.norm_scopes)


def has_norms(index: Index, scope: str) -> bool:
    """Whether the index holds token norms over a scope."""
    entry = index.supplement(SUPPLEMENT)
    return in_rows(index, scope) or (entry is not None and entry.settings == scope_settings(scope))


def stored_norms(index: Index, window: StoredWindow, scope: str) -> np.ndarray:
    """[T] ‖g_kj‖ over a scope that the index `has_norms` of."""
    if scope == index.settings["scope"]:
        return window.token_grad_norm
    if scope in window.scope_norms:
        return window.scope_norms[scope]
    kept = index.supplement_values(SUPPLEMENT, window.row)["token_norms"]
    return np.asarray(at_tokens(kept, window))


@dataclass(frozen=True)
class _Side:
    """A query direction: the gradient of a question's losses under weights [1, T]."""

    question: Question
    weights_BT: Tensor


def sides_of(method: LateMethod, question: Question) -> list[_Side]:
    """The directions that a method asks with: each traced token's own, or that of the mean.

    The name's tokens ask like those of the answer, by the loss of the prompt's own token.
    """
    labels_BT = asking_labels(question)
    asked = replace(question, batch=replace(question.batch, labels_BT=labels_BT))
    mean_BT = shares(asked.batch)
    return [
        _Side(asked, mean_BT if place is None else _one_hot(asked, place))
        for place in places_of(method, question)
    ]


def places_of(method: LateMethod, question: Question) -> list[int | None]:
    """The query position of each direction; None for that of the mean over all of them."""
    import torch

    if not method.by_token:
        return [None]
    return list(torch.nonzero(asking_labels(question)[0]).flatten().tolist())


def asking_labels(question: Question) -> Tensor:
    """[1, T] True at the tokens that ask: those of the answer, and of the name where it does."""
    labels_BT = question.batch.labels_BT.clone()
    labels_BT[0, list(question.names)] = True
    return labels_BT


def _one_hot(question: Question, place: int) -> Tensor:
    weights_BT = question.weights_BT.new_zeros(question.weights_BT.shape)
    weights_BT[0, place] = 1.0
    return weights_BT


class LateScorer:
    """Scores an index's windows by late interaction.

    Args:
        engine: over the scope of these methods, which need not be the index's.
        memory: bytes that the query directions of one pass may take.
    """

    def __init__(
        self, index: Index, engine: GradientEngine, settings: LateSettings, memory: int
    ) -> None:
        self._index = index
        self._engine = engine
        self._settings = settings
        self._memory = memory
        self.has_norms = has_norms(index, settings.scope)

    def reference_rows(self) -> list[int]:
        """The windows that y is compared with: all, or a seeded sample."""
        return sample_rows(self._index, self._settings.reference, self._settings.seed)

    def scores(
        self,
        methods: Sequence[LateMethod],
        questions: Sequence[Question],
        progress: Progress,
        wanted: Sequence[int] | None = None,
    ) -> dict[str, np.ndarray]:
        """[Q, N] every window's score for every question, by the method's name.

        Args:
            wanted: only these windows, ascending; those of the reference are scored beside them.
        """
        rows = self._with_reference(methods, range(len(self._index)) if wanted is None else wanted)
        asked = [(m, sides_of(m, question)) for m in methods for question in questions]
        strengths_KS = self._strengths(rows, [side for _, some in asked for side in some], progress)
        found: dict[str, list[np.ndarray]] = {method.name: [] for method in methods}
        at = 0
        for method, some in asked:
            shares_KQ = self._shares(method, rows, strengths_KS[:, at : at + len(some)])
            found[method.name].append(shares_KQ.sum(1))
            at += len(some)
        place = {row: k for k, row in enumerate(rows)}
        these = [place[row] for row in (rows if wanted is None else wanted)]
        return {name: np.stack(scored)[:, these] for name, scored in found.items()}

    def _with_reference(
        self, methods: Sequence[LateMethod], rows: Collection[int]
    ) -> Sequence[int]:
        by_token = any(method.by_token for method in methods)
        return sorted({*rows, *(self.reference_rows() if by_token else ())})

    def trace(
        self,
        method: LateMethod,
        question: Question,
        candidates: Collection[int],
        best: Tally,
        top: int,
        progress: Progress,
    ) -> int:
        """Scores candidates, and what else is scored for the reference; returns how many.

        Args:
            best: receives the best windows with evidence, and every window's score.
            top: records that are wanted.
        """
        rows = self._with_reference([method], candidates)
        sides = sides_of(method, question)
        strengths_KQ = self._strengths(rows, sides, progress)
        shares_KQ = self._shares(method, rows, strengths_KQ)
        scores_K = shares_KQ.sum(1)
        records = self._index.column("record")
        chosen: dict[int, int] = {}
        for k in np.argsort(-scores_K, kind="stable"):
            chosen.setdefault(int(records[rows[k]]), int(k))
            if len(chosen) == top:
                break
        kept = {rows[k]: k for k in chosen.values()}
        parts: dict[int, list[np.ndarray]] = {row: [] for row in kept}
        windows: dict[int, StoredWindow] = {}
        for _, window, cosines_QM in self._cosines(sorted(kept), sides, progress):
            windows[window.row] = window
            parts[window.row].append(cosines_QM)
        for row, k in kept.items():
            pairs_QM = evidence(np.concatenate(parts[row]), shares_KQ[k], self._settings.power)
            labels = np.asarray(windows[row].labels)
            pairs_QT = np.zeros((len(pairs_QM), len(labels)))
            pairs_QT[:, labels] = pairs_QM
            pairs = dict(zip(places_of(method, question), pairs_QT, strict=True))
            best.add(Scored(windows[row], float(scores_K[k]), None, pairs_QT.sum(0), pairs))
        for k, row in enumerate(rows):
            if row not in kept:
                best.note(row, float(scores_K[k]))
        return len(rows)

    def _shares(
        self, method: LateMethod, rows: Sequence[int], strengths_KQ: np.ndarray
    ) -> np.ndarray:
        """[K, Q] what each query direction adds to the score."""
        if not method.by_token:
            return strengths_KQ
        place = {row: k for k, row in enumerate(rows)}
        sample = [place[row] for row in self.reference_rows()]
        return Reference.of(strengths_KQ[sample]).above(strengths_KQ)

    def _strengths(
        self, rows: Sequence[int], sides: Sequence[_Side], progress: Progress
    ) -> np.ndarray:
        """[K, S] the strength y of every window and side."""
        place = {row: k for k, row in enumerate(rows)}
        found = np.zeros((len(rows), len(sides)))
        for at, window, cosines_QM in self._cosines(rows, sides, progress):
            these = strengths(cosines_QM, self._settings.power)
            found[place[window.row], at : at + len(these)] = these
        return found

    def _cosines(
        self, rows: Sequence[int], sides: Sequence[_Side], progress: Progress
    ) -> Iterator[tuple[int, StoredWindow, np.ndarray]]:
        """The first side of a chunk, a window, and C of the chunk's sides and its m labels."""
        engine = self._engine
        together = max(1, self._memory // engine.gradient_bytes)
        progress.start("late interaction", float(len(rows) * len(sides)))
        for start in range(0, len(sides), together):
            chunk = sides[start : start + together]
            queries = self._queries(chunk)
            for windows in window_batches(self._index, rows, engine.device):
                batch = batch_of(windows, engine.device)
                for window, dots_QT, norms_T in self._met(windows, batch, queries):
                    over_T = np.divide(1.0, norms_T, out=np.zeros_like(norms_T), where=norms_T > 0)
                    labels = np.asarray(window.labels)
                    yield start, window, (dots_QT * over_T)[:, labels]
                progress.advance(len(windows) * len(chunk), len(windows), token_count(windows))

    def _met(
        self, windows: Sequence[StoredWindow], batch: Batch, queries: Mapping[str, Tensor]
    ) -> Iterator[tuple[StoredWindow, np.ndarray, np.ndarray]]:
        """Each window with the dot products [Q, T] and the norms [T] of its tokens."""
        if self.has_norms:
            dots_QBT = self._engine.token_dots(batch, queries).cpu().numpy()
            for at, window in enumerate(windows):
                norms_T = stored_norms(self._index, window, self._settings.scope)
                yield window, dots_QBT[:, at, : len(norms_T)], norms_T
            return
        for window, row in zip(windows, batch.rows(), strict=True):
            tokens = self._engine.token_gradients(row, queries=queries)
            assert tokens.dots_QBT is not None
            yield window, tokens.dots_QBT[:, 0].cpu().numpy(), tokens.norms_BT[0].cpu().numpy()

    def _queries(self, sides: Sequence[_Side]) -> Mapping[str, Tensor]:
        import torch

        units: dict[str, list[Tensor]] = {name: [] for name in self._engine.parameters}
        for side in sides:
            gradient = self._engine.gradient(side.question.batch, side.weights_BT)
            for name, part in Direction.of(gradient).unit.items():
                units[name].append(part)
        return {name: torch.stack(parts) for name, parts in units.items()}
