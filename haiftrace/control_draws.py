"""The draws of one method from control queries: each control traced with its source left out.

Scores are exact where that takes minutes, of every window or of those that the index's vectors
propose; of a large model they are what the vectors estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from haiftrace.calibration.controls import Control
from haiftrace.calibration.draws import Draw, by_record
from haiftrace.calibration.statistics import RIVALS, UNDEFINED, Field
from haiftrace.calibration.work import EXACT_WORK, Scoring
from haiftrace.methods import LateMethod, Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Part, Progress
from haiftrace.trace import Tracer, over_query_norm

if TYPE_CHECKING:
    from haiftrace.scoring.directions import Question

T = TypeVar("T")

CONTROLS_A_BLOCK = 64
"""Controls whose draws become durable together, at least; by late interaction as many as the memory
holds the directions of, since they share one pass over the index's tokens."""

SCORED_WHOLE = 1024
"""Up to so many windows, every one is scored exactly for every control."""
PROPOSED = 4
"""In a larger index, so many windows are scored exactly for a control, and so many near copies."""
PROPOSED_LATE = 32
"""The same by late interaction, whose estimates by token vectors are coarser."""


class ControlDraws:
    """Draws of one method."""

    def __init__(
        self,
        tracer: Tracer,
        method: Method,
        settings: MethodSettings,
        groups: np.ndarray,
        memory: int,
        controls: Sequence[Control],
    ) -> None:
        self._tracer = tracer
        self._method = method
        self._settings = settings
        self._groups = groups
        self._record_N = tracer.index.column("record")
        self._records = tracer.index.manifest.totals.records
        fits = tracer.candidates.has_background(method, settings)
        self._whole = not fits or len(tracer.index) <= SCORED_WHOLE
        self._late = method if isinstance(method, LateMethod) else None
        self._proposals = PROPOSED_LATE if self._late else PROPOSED
        if self._late:
            # Each direction is a gradient, and two numbers a window.
            engine = tracer.engine_over(settings.late.scope)
            self._room = memory // max(engine.gradient_bytes, 16 * len(tracer.index))
        else:
            # A question holds its gradient and its direction, which scoring copies once more.
            self._room = memory // (3 * tracer.engine.gradient_bytes)
        # Draws are of one kind with what they are compared with: an exact score over a reference of
        # estimates has neither's margins.
        standardised = self._late is not None and self._late.standardised
        mixed = standardised and tracer.candidates.reference(settings) is not None
        self.estimated = fits and (mixed or self._takes_long(controls))
        if self.estimated:
            self._room = CONTROLS_A_BLOCK

    def _takes_long(self, controls: Sequence[Control]) -> bool:
        """Whether exact scores would take much longer than estimates by the index's vectors."""
        tracer, late = self._tracer, self._late
        engine = tracer.engine_over(self._settings.late.scope) if late else tracer.engine
        totals = tracer.index.manifest.totals
        scoring = Scoring(
            self._directions(controls),
            totals.windows if self._whole else self._proposals,
            totals.label_tokens / max(1, totals.windows),
            tracer.checkpoint.parameters,
            engine.gradient_bytes // 4,
        )
        work = scoring.by_tokens() if late else scoring.by_sums()
        return work > EXACT_WORK[engine.device.type]

    def blocks(self, controls: Sequence[Control]) -> Iterator[list[Control]]:
        """Controls with all their lengths together, whose draws are kept in one file."""
        numbered = groupby(controls, key=lambda control: control.number // CONTROLS_A_BLOCK)
        least = [list(block) for _, block in numbered]
        for some in _packed(least, self._directions, self._room if self._late else 0):
            yield [control for block in some for control in block]

    def draws(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        """A draw a control, in order."""
        found = []
        for part in _packed(controls, lambda control: self._directions([control]), self._room):
            share = Part(progress, float(len(part)))
            found += list(self._estimates(part)) if self.estimated else self._part(part, share)
            share.finish()
        return found

    def _estimates(self, controls: Sequence[Control]) -> Iterator[Draw]:
        """The same by the index's vectors alone, each record's score its estimate."""
        # Late interaction scans the tokens' vectors for several; another direction is as large as
        # the index's scope, and is dropped before the next.
        together = len(controls) if self._late else 1
        for start in range(0, len(controls), together):
            some = controls[start : start + together]
            questions = [self._question(control) for control in some]
            found = self._tracer.candidates.backgrounds(questions, self._method, self._settings)
            for control, estimate in zip(some, found, strict=True):
                assert estimate is not None
                scores = self._by_record(estimate)
                field = Field(scores, scores, self._groups, self._late is not None)
                yield _draw(field, control, self._left_out(control))

    def _directions(self, controls: Sequence[Control]) -> int:
        """Query-side vectors of these controls."""
        if self._late is None:
            return len(controls)
        return sum(self._late.directions(control.length) for control in controls)

    def _part(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        questions = [self._question(control) for control in controls]
        left_out = [self._left_out(control) for control in controls]
        projected: Sequence[np.ndarray | None] = [None] * len(questions)
        rows: list[int] | None = None
        if not self._whole:
            candidates = self._tracer.candidates
            projected = candidates.backgrounds(questions, self._method, self._settings)
            chosen = [
                self._proposed(*each) for each in zip(controls, projected, left_out, strict=True)
            ]
            rows = sorted(set().union(*chosen))
        scores_QN = self._tracer.score_many(
            questions, [self._method.name], self._settings, progress, rows
        )[self._method.name]
        found = []
        for place, (control, question) in enumerate(zip(controls, questions, strict=True)):
            exact_N = scores_QN[place] * over_query_norm(self._method, question)
            records = self._record_N
            if rows is not None:
                # What other questions had scored is not this one's: all are treated alike.
                own = np.isin(rows, list(chosen[place]))
                exact_N, records = exact_N[own], self._record_N[np.array(rows)[own]]
            exact = by_record(exact_N, records, self._records)
            background = projected[place]
            everything = exact if background is None else self._by_record(background)
            field = Field(exact, everything, self._groups, self._late is not None)
            found.append(_draw(field, control, left_out[place]))
        return found

    def _question(self, control: Control) -> Question:
        from haiftrace.engine import make_batch
        from haiftrace.scoring.directions import Question

        before = len(control.token_ids) - control.length
        labels = [False] * before + [True] * control.length
        engine = self._tracer.engine
        batch = make_batch([list(control.token_ids)], [labels], engine.device)
        return Question(batch, engine)

    def _left_out(self, control: Control) -> np.ndarray:
        """[R] True for the source, its group, and whatever holds the span."""
        left_out: np.ndarray = self._groups == self._groups[control.record]
        left_out[control.containing] = True
        return left_out

    def _proposed(
        self, control: Control, projected: np.ndarray | None, left_out: np.ndarray
    ) -> set[int]:
        """Windows to score: the best by their vectors of what is not left out, and of the near
        copies of the source, whose own is scored where there is no copy.

        The former are of as many groups as a margin is taken from.
        """
        assert projected is not None
        copies = _copies(self._groups, control)[self._record_N]
        kept = np.where(left_out[self._record_N], -np.inf, projected)
        best = _largest(kept, len(kept))
        _, begins = np.unique(self._groups[self._record_N[best]], return_index=True)
        enough = np.sort(begins)[: RIVALS + 1]
        count = max(self._proposals, 1 + int(enough.max(initial=0)))
        copied = _largest(np.where(copies, projected, -np.inf), self._proposals)
        return {*best[:count], *(copied or [control.row])}

    def _by_record(self, values_N: np.ndarray) -> np.ndarray:
        return by_record(values_N, self._record_N, self._records)


def _packed(items: Sequence[T], size: Callable[[T], int], room: int) -> Iterator[list[T]]:
    """Runs of items whose sizes come to no more than the room, of one item at least."""
    run: list[T] = []
    filled = 0
    for item in items:
        if run and filled + size(item) > room:
            yield run
            run, filled = [], 0
        run.append(item)
        filled += size(item)
    if run:
        yield run


def _largest(values_N: np.ndarray, count: int) -> list[int]:
    """The places of the largest finite values."""
    best = np.argsort(-values_N, kind="stable")[:count]
    finite: list[int] = best[np.isfinite(values_N[best])].tolist()
    return finite


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
