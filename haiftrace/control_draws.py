"""The draws of one method from control queries: each control traced with its source left out.

Scores are exact, of every window or of those that the index's vectors propose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.calibration.controls import Control
from haiftrace.calibration.draws import Draw, by_record
from haiftrace.calibration.statistics import RIVALS, UNDEFINED, Field
from haiftrace.methods import Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Part, Progress
from haiftrace.trace import Tracer, over_query_norm

if TYPE_CHECKING:
    from haiftrace.scoring.directions import Question

CONTROLS_A_BLOCK = 64
"""Controls whose draws become durable together."""

SCORED_WHOLE = 1024
"""Up to so many windows, every one is scored exactly for every control."""
PROPOSED = 4
"""In a larger index, so many windows are scored exactly for a control, and so many near copies."""


class ControlDraws:
    """Draws of one method."""

    def __init__(
        self,
        tracer: Tracer,
        method: Method,
        settings: MethodSettings,
        groups: np.ndarray,
        memory: int,
    ) -> None:
        self._tracer = tracer
        self._method = method
        self._settings = settings
        self._groups = groups
        self._record_N = tracer.index.column("record")
        self._records = tracer.index.manifest.totals.records
        fits = tracer.candidates.has_background(method, settings)
        self._whole = not fits or len(tracer.index) <= SCORED_WHOLE
        # A question holds its gradient and its direction, which scoring copies once more.
        self._together = max(1, memory // (3 * tracer.engine.gradient_bytes))

    def draws(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        """A draw a control, in order."""
        found = []
        for start in range(0, len(controls), self._together):
            part = controls[start : start + self._together]
            share = Part(progress, float(len(part)))
            found += self._part(part, share)
            share.finish()
        return found

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
            field = Field(exact, everything, self._groups)
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
        count = max(PROPOSED, 1 + int(enough.max(initial=0)))
        copied = _largest(np.where(copies, projected, -np.inf), PROPOSED)
        return {*best[:count], *(copied or [control.row])}

    def _by_record(self, values_N: np.ndarray) -> np.ndarray:
        return by_record(values_N, self._record_N, self._records)


def blocks(controls: Sequence[Control]) -> Iterator[list[Control]]:
    """Controls with all their lengths together, whose draws are kept in one file."""
    for _, block in groupby(controls, key=lambda control: control.number // CONTROLS_A_BLOCK):
        yield list(block)


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
