"""The null samples of one method: each control query traced with its source left out.

Scores are exact: of every window of a small index, of a larger one of those that its token vectors
propose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

import numpy as np

from haiftrace.calibration.controls import LENGTHS, Control
from haiftrace.calibration.cost import ControlCost
from haiftrace.calibration.null_distribution import Draw, by_record
from haiftrace.calibration.p_values import UNDEFINED, Field
from haiftrace.methods import LayerwiseMethod, Method
from haiftrace.methods.layerwise import REFERENCE
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Part, Progress
from haiftrace.scoring.candidates import SearchBudget
from haiftrace.scoring.layerwise.block import LayerwiseSearch
from haiftrace.scoring.query_gradient import Question, over_query_norm
from haiftrace.scoring.session import Scorers

CONTROLS_A_BLOCK = 64
"""Controls whose null samples become durable together."""
LAYERWISE_BLOCK = 512
"""The same by the layerwise method, whose query tokens share one pass through the windows."""

SCORED_WHOLE = 1024
"""Up to so many windows, every one is scored for every control."""
PROPOSED = 64
"""In a larger index, so many windows are scored for a control, beside its own."""


class ControlDraws:
    """Null samples of one method, and the same with the source there.

    Args:
        groups: [R] which records tell the same.
        memory: bytes that the gradients of questions scored together may take.
    """

    def __init__(
        self,
        scorers: Scorers,
        method: Method,
        settings: MethodSettings,
        groups: np.ndarray,
        memory: int,
    ) -> None:
        self._scorers = scorers
        self._method = method
        self._settings = settings
        self._groups = groups
        self._record_N = scorers.index.column("record")
        self._records = scorers.index.manifest.totals.records
        self._layerwise = isinstance(method, LayerwiseMethod)
        self._memory = memory

    @property
    def _together(self) -> int:
        """Questions that are scored together."""
        if self._layerwise:
            return LAYERWISE_BLOCK
        # A question holds its gradient and its direction, which scoring copies once more.
        return max(1, self._memory // (3 * self._scorers.engine.gradient_bytes))

    def draws(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        """A null sample a control, in order."""
        found = []
        for start in range(0, len(controls), self._together):
            part = controls[start : start + self._together]
            share = Part(progress, float(len(part)))
            found += self._part(part, share)
            share.finish()
        return found

    def _part(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        questions = [self._question(control) for control in controls]
        rows = self._rows(controls, questions)
        scored = (self._by_layers if self._layerwise else self._by_sums)(questions, rows, progress)
        found = []
        for control, (rows_K, scores_K) in zip(controls, scored, strict=True):
            exact = by_record(scores_K, self._record_N[rows_K], self._records)
            field = Field(exact, self._groups, self._layerwise)
            found.append(_draw(field, control, self._left_out(control)))
        return found

    def _rows(
        self, controls: Sequence[Control], questions: Sequence[Question]
    ) -> list[Collection[int]]:
        """The windows that are scored for each control."""
        candidates = self._scorers.candidates
        if len(self._scorers.index) <= SCORED_WHOLE:
            return [range(len(self._scorers.index)) for _ in controls]
        budget = SearchBudget(candidates=PROPOSED)
        proposed = candidates.of([question.batch for question in questions], budget)
        return [{*rows, control.row} for control, rows in zip(controls, proposed, strict=True)]

    def _by_layers(
        self, questions: Sequence[Question], rows: Sequence[Collection[int]], progress: Progress
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        searches = [
            LayerwiseSearch(question.batch, each)
            for question, each in zip(questions, rows, strict=True)
        ]
        for found in self._scorers.layerwise.scores(searches, progress):
            yield found.rows_K, found.scores_K

    def _by_sums(
        self, questions: Sequence[Question], rows: Sequence[Collection[int]], progress: Progress
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # What other questions had scored is not this one's: all are treated alike.
        union = np.array(sorted(set().union(*rows)))
        scores_QN = self._scorers.score_many(
            questions, [self._method.name], self._settings, progress, self._some(union)
        )[self._method.name]
        for scores_N, question, each in zip(scores_QN, questions, rows, strict=True):
            own = np.isin(union, list(each))
            yield union[own], scores_N[own] * over_query_norm(self._method, question)

    def _some(self, rows: np.ndarray) -> list[int] | None:
        """The rows, or None where these are all."""
        return None if len(rows) == len(self._record_N) else rows.tolist()

    def _question(self, control: Control) -> Question:
        from haiftrace.engine import make_batch

        before = len(control.token_ids) - control.length
        labels = [False] * before + [True] * control.length
        batch = make_batch([list(control.token_ids)], [labels], self._scorers.device)
        return Question(batch, lambda: self._scorers.engine)

    def _left_out(self, control: Control) -> np.ndarray:
        """[R] True for the source, its group, and whatever holds the span or a rare part of it."""
        left_out: np.ndarray = self._groups == self._groups[control.record]
        left_out[control.sharing] = True
        return left_out


def affordable_controls(scorers: Scorers, method: Method, wanted: int) -> int:
    """So many of the wanted controls as cost about what indexing did, at least a few hundred."""
    if not isinstance(method, LayerwiseMethod):
        return wanted
    from haiftrace.engine import make_batch

    window = next(iter(scorers.index.iter_windows([0])))
    token = make_batch([window.token_ids[:2]], device=scorers.device)
    totals = scorers.index.manifest.totals
    whole = totals.windows <= SCORED_WHOLE
    cost = ControlCost(
        windows=totals.windows if whole else PROPOSED + REFERENCE,
        labels=totals.label_tokens / totals.windows,
        tokens=sum(LENGTHS) / len(LENGTHS),
        dot_work=scorers.similarity.queries([token]).dot_work,
        index_work=3.0 * scorers.checkpoint.parameters * totals.label_tokens,
    )
    return cost.affordable(wanted)


def blocks(controls: Sequence[Control], method: Method) -> Iterator[list[Control]]:
    """Controls whose null samples are kept in one file."""
    layerwise = isinstance(method, LayerwiseMethod)
    size = LAYERWISE_BLOCK if layerwise else CONTROLS_A_BLOCK
    for _, block in groupby(controls, key=lambda control: control.number // size):
        yield list(block)


def _draw(field: Field, control: Control, left_out: np.ndarray) -> Draw:
    first = field.first(left_out)
    null = UNDEFINED if first is None else field.standing(first, left_out)
    copy = field.first(~_copies(field.groups, control))
    source = control.record if copy is None else copy
    return Draw(control.length, null, field.standing(source, left_out))


def _copies(groups: np.ndarray, control: Control) -> np.ndarray:
    """[R] True for the near copies of a control's record that hold its span, not the record."""
    holding = np.zeros(len(groups), dtype=bool)
    holding[control.containing] = True
    holding[control.record] = False
    return holding & (groups == groups[control.record])
