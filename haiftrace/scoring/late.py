"""Exact scores by late interaction: every query direction meets every token of the windows.

Questions share the passes: a batch of windows meets the directions of those that want any of them.
Along a training run all of that is done under each checkpoint's weights in turn.

The cosines are the dot products over the token norms. The index keeps the norms over a few scopes:
then a few directions share forward-mode passes, and only for more of them, or over another scope,
every token's gradient is formed. Query directions are taken in chunks that fit the memory; a
chunk is a pass through the windows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.device import give_back_memory
from haiftrace.methods.families import LateMethod
from haiftrace.methods.late import strengths
from haiftrace.methods.settings import LateSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.best import Tally
from haiftrace.scoring.directions import Question
from haiftrace.scoring.late_evidence import Pairing
from haiftrace.scoring.late_norms import has_norms, stored_norms
from haiftrace.scoring.late_shares import LateShares
from haiftrace.scoring.meetings import Meeting, chosen, chunks
from haiftrace.scoring.sides import distinct, sides_of, unit_directions
from haiftrace.scoring.token_shortlist import TokenShortlist
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine
    from haiftrace.trajectory import Trajectory


KEPT_BYTES = 64 << 20
"""Cosines that a trace keeps for the evidence of the best windows; of more, theirs are found in a
second pass."""
LARGE_BYTES = 64 << 20
"""Directions whose memory is handed back before the next are formed."""
COPIES = 4
"""Of a direction: as it is formed, beside the others, chosen for a batch, and cast for a pass."""


@dataclass(frozen=True)
class LateSearch:
    """One question's part in a pass.

    Attributes:
        question: as late interaction asks it.
        candidates: rows of the windows that are scored for it.
        best: receives its best windows with evidence, and every window's score.
    """

    question: Question
    candidates: Collection[int]
    best: Tally


Pairs = dict[tuple[int, int], list[np.ndarray]]
"""By a meeting's number and a window's row, C [Q, M] of its Q sides and M labels at each model."""


class LateScorer:
    """Scores an index's windows by late interaction.

    Args:
        engine: over the scope of these methods, which need not be the index's.
        memory: bytes that the query directions of one pass may take.
        run: the checkpoints whose strengths are averaged; None for the traced one's own.
        estimates: whose estimates z-scores are over; None for exact strengths of a sample.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        settings: LateSettings,
        memory: int,
        run: Trajectory | None = None,
        estimates: TokenShortlist | None = None,
    ) -> None:
        self._index = index
        self._engine = engine
        self._settings = settings
        self._memory = memory
        self._run = run
        self._shares = LateShares(index, settings, estimates)
        self.notes = run.notes if run else ()
        self.has_norms = has_norms(index, settings.scope)

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
        everything = range(len(self._index)) if wanted is None else wanted
        rows = self._shares.rows(methods, everything)
        asked = [(m, question, sides_of(m, question)) for m in methods for question in questions]
        # Methods, and questions that begin alike, share the directions that they ask with.
        sides, places_S = distinct([side for _, _, some in asked for side in some])
        (strengths_KD,) = self._strengths([Meeting(rows, sides)], progress)
        found: dict[str, list[np.ndarray]] = {method.name: [] for method in methods}
        at = 0
        for method, question, some in asked:
            strengths_KQ = strengths_KD[:, places_S[at : at + len(some)]]
            shares_KQ = self._shares.of(method, question, rows, strengths_KQ)
            found[method.name].append(shares_KQ.sum(1))
            at += len(some)
        place = {row: k for k, row in enumerate(rows)}
        these = [place[row] for row in (rows if wanted is None else wanted)]
        return {name: np.stack(scored)[:, these] for name, scored in found.items()}

    def trace(
        self, method: LateMethod, searches: Sequence[LateSearch], top: int, progress: Progress
    ) -> list[int]:
        """Scores each search's candidates, and what else is scored for the reference.

        The searches share the passes through the windows.

        Args:
            top: records that are wanted.

        Returns:
            How many windows were scored for each.
        """
        asked = [
            Meeting(
                self._shares.rows([method], search.candidates),
                sides_of(method, search.question),
            )
            for search in searches
        ]
        pairs = self._pairs(asked, progress) if self._are_few(asked) else None
        if pairs is None:
            strengths_each = self._strengths(asked, progress)
        else:
            strengths_each = self._strengths_of(pairs, asked)
        shares = [
            self._shares.of(method, search.question, one.rows, strengths_KQ)
            for search, one, strengths_KQ in zip(searches, asked, strengths_each, strict=True)
        ]
        records = self._index.column("record")
        best = [_best(one, of, records, top) for one, of in zip(asked, shares, strict=True)]
        if pairs is None:
            again = [Meeting(sorted(few), one.sides) for one, few in zip(asked, best, strict=True)]
            pairs = self._pairs(again, progress)
        shown = sorted(set().union(*best))
        windows = {window.row: window for window in self._index.iter_windows(shown)}
        for number, (search, one, of) in enumerate(zip(searches, asked, shares, strict=True)):
            pairing = Pairing(method, search.question, self._engine, self._settings.power)
            for k, row in enumerate(one.rows):
                if row in best[number]:
                    search.best.add(pairing.scored(windows[row], pairs[number, row], of[k]))
                else:
                    search.best.note(row, float(of[k].sum()))
        return [len(one.rows) for one in asked]

    def _are_few(self, asked: Sequence[Meeting]) -> bool:
        """Whether all cosines can be kept, so that the best windows' need no second pass."""
        labels_N = self._index.column("label_count")
        models = len(self._run.steps) if self._run else 1
        pairs = sum(int(labels_N[list(one.rows)].sum()) * len(one.sides) for one in asked)
        return 8 * pairs * models <= KEPT_BYTES

    def _pairs(self, asked: Sequence[Meeting], progress: Progress) -> Pairs:
        """All cosines of the meetings."""
        found: Pairs = {}
        with self._models(asked, progress) as models:
            for stored in models:
                here: dict[tuple[int, int], list[np.ndarray]] = {}
                for number, _, window, cosines_SM in self._cosines(asked, stored, progress):
                    here.setdefault((number, window.row), []).append(cosines_SM)
                for place, some in here.items():
                    found.setdefault(place, []).append(np.concatenate(some))
        return found

    def _strengths_of(self, pairs: Pairs, asked: Sequence[Meeting]) -> list[np.ndarray]:
        """The same as `_strengths`, of cosines that were kept."""
        found = []
        for number, one in enumerate(asked):
            strengths_KQ = np.zeros((len(one.rows), len(one.sides)))
            for k, row in enumerate(one.rows):
                along_TQ = [
                    strengths(met_QM, self._settings.power) for met_QM in pairs[number, row]
                ]
                strengths_KQ[k] = np.mean(along_TQ, axis=0)
            found.append(strengths_KQ)
        return found

    def _strengths(self, asked: Sequence[Meeting], progress: Progress) -> list[np.ndarray]:
        """[K, S] of each meeting: the strength y of every window and side."""
        places = [{row: k for k, row in enumerate(one.rows)} for one in asked]
        found = [np.zeros((len(one.rows), len(one.sides))) for one in asked]
        met = 0
        with self._models(asked, progress) as models:
            for stored in models:
                met += 1
                for number, at, window, cosines_SM in self._cosines(asked, stored, progress):
                    these = strengths(cosines_SM, self._settings.power)
                    found[number][places[number][window.row], at : at + len(these)] += these
        return [each / met for each in found]

    @contextmanager
    def _models(self, asked: Sequence[Meeting], progress: Progress) -> Iterator[Iterable[bool]]:
        """Puts each model's weights in place, and gives whether the index's norms are its own."""
        work = sum(len(one.rows) * len(one.sides) for one in asked)
        if self._run is None:
            progress.start("late interaction", float(work))
            yield [self.has_norms]
            return
        progress.start(
            "late interaction along the training run", float(work * len(self._run.steps))
        )
        indexed = self._index.fingerprints["weights"]
        with self._run.visiting() as steps:
            yield (self.has_norms and step.fingerprint == indexed for step in steps)

    def _cosines(
        self, asked: Sequence[Meeting], stored: bool, progress: Progress
    ) -> Iterator[tuple[int, int, StoredWindow, np.ndarray]]:
        """A meeting's number, which of its sides come first, a window, and C of some of its sides
        and the window's m labels.

        Args:
            stored: the token norms are those of the index.
        """
        engine = self._engine
        together = max(1, self._memory // (COPIES * engine.gradient_bytes))
        wanted = [set(one.rows) for one in asked]
        for runs in chunks([len(one.sides) for one in asked], together):
            chunk = [side for run in runs for side in asked[run.number].sides[run.of]]
            if len(chunk) * engine.gradient_bytes > LARGE_BYTES:
                queries = {}  # those before go first
                give_back_memory()
            queries = unit_directions(engine, chunk)
            rows = sorted(set().union(*(wanted[run.number] for run in runs)))
            for windows in window_batches(self._index, rows, engine.device):
                batch = batch_of(windows, engine.device)
                asks = [any(w.row in wanted[run.number] for w in windows) for run in runs]
                asking = [run for run, does in zip(runs, asks, strict=True) if does]
                asking_queries = chosen(queries, runs, asks)
                done = 0
                for window, dots_QT, norms_T in self._met(windows, batch, asking_queries, stored):
                    over_T = np.divide(1.0, norms_T, out=np.zeros_like(norms_T), where=norms_T > 0)
                    cosines_QM = (dots_QT * over_T)[:, np.asarray(window.labels)]
                    at = 0
                    for run in asking:
                        of_run = cosines_QM[at : at + run.count]
                        at += run.count
                        if window.row in wanted[run.number]:
                            done += run.count
                            yield run.number, run.start, window, of_run
                progress.advance(done, len(windows), token_count(windows))

    def _met(
        self,
        windows: Sequence[StoredWindow],
        batch: Batch,
        queries: Mapping[str, Tensor],
        stored: bool,
    ) -> Iterator[tuple[StoredWindow, np.ndarray, np.ndarray]]:
        """Each window with the dot products [Q, T] and the norms [T] of its tokens."""
        if stored:
            dots_QBT = self._engine.token_dots(batch, queries).cpu().numpy()
            for at, window in enumerate(windows):
                norms_T = stored_norms(self._index, window, self._settings.scope)
                yield window, dots_QBT[:, at, : len(norms_T)], norms_T
            return
        for window, row in zip(windows, batch.rows(), strict=True):
            tokens = self._engine.token_gradients(row, queries=queries)
            assert tokens.dots_QBT is not None
            yield window, tokens.dots_QBT[:, 0].cpu().numpy(), tokens.norms_BT[0].cpu().numpy()


def _best(one: Meeting, shares_KQ: np.ndarray, record_N: np.ndarray, top: int) -> dict[int, int]:
    """The best records' windows: where each stands in the meeting, by its row."""
    chosen: dict[int, int] = {}
    for k in np.argsort(-shares_KQ.sum(1), kind="stable"):
        chosen.setdefault(int(record_N[one.rows[k]]), int(k))
        if len(chosen) == top:
            break
    return {one.rows[k]: k for k in chosen.values()}
