"""The margins of control queries by one method, each with its source left out and with it.

Scores are exact: of every window of a small index, of a larger one of those that its token vectors
propose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

import numpy as np

from haiftrace.calibration.controls import LENGTHS, Control
from haiftrace.calibration.cost import ControlCost
from haiftrace.calibration.null_distribution import ControlSample
from haiftrace.calibration.p_values import UNDEFINED, RecordScores
from haiftrace.methods import Method
from haiftrace.methods.layerwise import REFERENCE
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress, Substage
from haiftrace.scoring.candidates import SearchBudget
from haiftrace.scoring.family import ScoringQuery, ScoringRun
from haiftrace.scoring.session import ScoringSession

CONTROLS_OF_A_FILE = 64
"""Controls whose samples become durable together, at least."""

ALL_WINDOWS = 1024
"""Up to so many windows, every one is scored for every control."""
PROPOSED = 64
"""In a larger index, so many windows are scored for a control, beside its own."""


class ControlScorer:
    """Control samples of one method.

    Args:
        groups_R: the near-copy group of each record.
        memory: bytes that the gradients of controls scored together may take.
    """

    def __init__(
        self,
        session: ScoringSession,
        method: Method,
        settings: MethodSettings,
        groups_R: np.ndarray,
        memory: int,
    ) -> None:
        self._session = session
        self._model = session.model
        self._method = method
        self._settings = settings
        self._groups_R = groups_R
        self._record_N = self._model.index.column("record")
        self._controls_of_a_pass = session.family(method).queries_of_a_pass(memory)

    def files(self, controls: Sequence[Control]) -> Iterator[list[Control]]:
        """Controls whose samples are kept in one file: those of a pass, or a fixed number."""
        size = max(CONTROLS_OF_A_FILE, self._controls_of_a_pass)
        for _, controls_of_a_file in groupby(controls, key=lambda control: control.number // size):
            yield list(controls_of_a_file)

    def samples(self, controls: Sequence[Control], progress: Progress) -> list[ControlSample]:
        """A sample a control, in order."""
        samples = []
        for start in range(0, len(controls), self._controls_of_a_pass):
            together = controls[start : start + self._controls_of_a_pass]
            substage = Substage(progress, float(len(together)))
            samples += self._samples_of_a_pass(together, substage)
            substage.finish()
        return samples

    def _samples_of_a_pass(
        self, controls: Sequence[Control], progress: Progress
    ) -> list[ControlSample]:
        queries = [self._query(control) for control in controls]
        rows = self._rows(controls, queries)
        rule = self._model.rule([self._method], self._settings)
        run = ScoringRun(self._settings, rule, progress)
        scored = self._session.scores(queries, rows, self._method, run)
        records = self._model.index.manifest.totals.records
        samples = []
        for control, scores in zip(controls, scored, strict=True):
            scores_R = scores.by_record(self._record_N, records)
            of_records = RecordScores(scores_R, self._groups_R, self._method.relative_margin)
            samples.append(_sample(of_records, control, self._left_out(control)))
        return samples

    def _rows(
        self, controls: Sequence[Control], queries: Sequence[ScoringQuery]
    ) -> list[Collection[int]]:
        """The windows that are scored for each control."""
        windows = len(self._model.index)
        if windows <= ALL_WINDOWS:
            return [range(windows) for _ in controls]
        budget = SearchBudget(candidates=PROPOSED)
        proposed = self._model.candidates.of([query.batch for query in queries], budget)
        return [{*rows, control.row} for control, rows in zip(controls, proposed, strict=True)]

    def _query(self, control: Control) -> ScoringQuery:
        from haiftrace.engine import make_batch

        before = len(control.token_ids) - control.length
        labels = [False] * before + [True] * control.length
        return ScoringQuery(make_batch([list(control.token_ids)], [labels], self._model.device))

    def _left_out(self, control: Control) -> np.ndarray:
        """[R] True for the source, its group, and what holds the span or a rare pair of it."""
        left_out_R: np.ndarray = self._groups_R == self._groups_R[control.record]
        left_out_R[control.sharing] = True
        return left_out_R


def affordable_controls(session: ScoringSession, method: Method, wanted: int) -> int:
    """So many of the wanted controls as cost about what indexing did, at least a few hundred."""
    model = session.model
    totals = model.index.manifest.totals
    cost = ControlCost(
        windows=totals.windows if totals.windows <= ALL_WINDOWS else PROPOSED + REFERENCE,
        labels=totals.label_tokens / totals.windows,
        tokens=sum(LENGTHS) / len(LENGTHS),
        dot_work=session.family(method).token_work(),
        index_work=3.0 * model.checkpoint.parameters * totals.label_tokens,
    )
    return cost.affordable(wanted)


def _sample(scores: RecordScores, control: Control, left_out_R: np.ndarray) -> ControlSample:
    first = scores.first(left_out_R)
    null = UNDEFINED if first is None else scores.margin(first, left_out_R)
    copy = scores.first(~_copies(scores.groups_R, control))
    source = control.record if copy is None else copy
    return ControlSample(control.length, null, scores.margin(source, left_out_R))


def _copies(groups_R: np.ndarray, control: Control) -> np.ndarray:
    """[R] True for the near copies of a control's record that hold its span, not the record."""
    holding_R = np.zeros(len(groups_R), dtype=bool)
    holding_R[control.containing] = True
    holding_R[control.record] = False
    return holding_R & (groups_R == groups_R[control.record])
