"""Use case: index × methods -> null distributions, by control queries over the index itself.

Each control is traced with its source left out, its near copies and every record that holds its
span too: the best remaining record is a draw of "the source is not in this corpus". A near copy of
the source that holds the span, or where there is none the source itself, is a draw of "it is".
Scores are exact where that takes minutes; for larger models they are estimates by the index's
vectors, and verdicts compare estimates with them.
Controls are taken in blocks; a block's draws are durable before the next is begun, so an
interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from haiftrace.calibration.controls import LENGTHS, Control, draw_controls
from haiftrace.calibration.draws import (
    ALPHA,
    ESTIMATED,
    FORMAT,
    GROUPS,
    Draw,
    by_record,
    calibration_name,
    draw_tensors,
    read_draws,
    read_groups,
    told,
)
from haiftrace.calibration.near_copies import ALIKE, joined_groups, near_copy_groups
from haiftrace.calibration.statistics import STATISTICS, Field, resolves
from haiftrace.calibration.work import EXACT_WORK, Scoring
from haiftrace.methods import (
    DEFAULT_METHOD,
    SERIES,
    GradientMethod,
    LateMethod,
    LexicalMethod,
    Method,
    find_methods,
)
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Part, Progress
from haiftrace.store import Index, SupplementWriter
from haiftrace.store.manifest import plain
from haiftrace.trace import Tracer, over_query_norm

if TYPE_CHECKING:
    from haiftrace.checkpoint import Checkpoint
    from haiftrace.scoring.directions import Question

T = TypeVar("T")

CONTROLS = 512
"""Control queries of an index."""

CONTROLS_A_BLOCK = 64
"""Controls whose draws become durable together, at least; by late interaction as many as the memory
holds the directions of, since they share one pass over the index's tokens."""

SCORED_WHOLE = 1024
"""Up to so many windows, every one is scored exactly for every control."""
PROPOSED = 4
"""In a larger index, so many windows are scored exactly for a control, and so many near copies."""
PROPOSED_LATE = 32
"""The same by late interaction, whose estimates by token vectors are coarser."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How an index is calibrated.

    Attributes:
        controls: control queries; fewer are drawn from a small corpus.
        seed: of the draws.
        memory: bytes that the gradients of questions scored together may take.
    """

    controls: int = CONTROLS
    seed: int = 0
    memory: int = 512 << 20


def calibrate(
    path: Path,
    checkpoint: Checkpoint,
    methods: str,
    told_methods: MethodSettings,
    settings: CalibrationSettings,
    progress: Progress,
) -> None:
    """Calibrates the index at `path` for the methods; what it holds already is kept.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or settings.
    """
    chosen = []
    for method in find_methods(methods):
        if isinstance(method, LexicalMethod):
            continue
        if isinstance(method, GradientMethod) and method.direction == SERIES:
            progress.say(f"{method.name} is not calibrated: it takes a series for every control.")
            continue
        chosen.append(method)
    with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
        tracer = Tracer(index, checkpoint, settings.memory)
        groups = _keep_groups(writer, index, progress)
        controls: list[Control] | None = None
        fresh = []
        for method in chosen:
            name = calibration_name(method.name)
            described = _described(method, told_methods, settings)
            if _is_finished(index, name, described):
                continue
            if controls is None:
                progress.start("drawing control queries", None)
                controls = draw_controls(index, settings.controls, settings.seed)
            calibrator = _Calibrator(
                tracer, method, told_methods, groups, settings.memory, controls
            )
            described[ESTIMATED] = calibrator.estimated
            files = writer.begin(name, described)
            # Blocks may have been of other sizes: what counts is the draws that they hold.
            done = len(read_draws(index, method.name).length_N) if files else 0
            progress.start(f"calibrating {method.name}", float(len(controls) - done))
            if done:
                progress.say(f"Going on with the calibration of {method.name}.")
            for block in calibrator.blocks(controls[done:]):
                draws = calibrator.draws(block, progress)
                writer.add_tensors(name, draw_tensors(draws), {"controls": str(len(block))})
            writer.finish(name)
            fresh.append(method)
    with Index.open(path, verify=False) as index:
        for method in fresh:
            progress.say(_outcome(index, method))


def controls_for(path: Path, asked: int | None, seed: int, otherwise: int) -> tuple[int, int]:
    """How many controls, and their seed.

    Args:
        asked: what the user said; None for those that the default method is calibrated with.
        otherwise: where it is not calibrated.
    """
    if asked is not None:
        return asked, seed
    with Index.open(path, verify=False) as index:
        return calibrated_with(index, DEFAULT_METHOD) or (otherwise, seed)


def calibrated_with(index: Index, method: str) -> tuple[int, int] | None:
    """Controls and seed of an index's calibration for a method; None where it has none."""
    entry = index.supplement(calibration_name(method))
    return None if entry is None else (entry.settings["controls"], entry.settings["seed"])


def _is_finished(index: Index, name: str, described: dict[str, Any]) -> bool:
    entry = index.supplement(name)
    if entry is None:
        return False
    return {key: value for key, value in entry.settings.items() if key != ESTIMATED} == plain(
        described
    )


def _described(
    method: Method, told_methods: MethodSettings, settings: CalibrationSettings
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "controls": settings.controls,
        "seed": settings.seed,
        "lengths": list(LENGTHS),
        "told": told(method, told_methods),
    }


def _outcome(index: Index, method: Method) -> str:
    draws = read_draws(index, method.name)
    entry = index.supplement(calibration_name(method.name))
    estimated = "estimated " if entry is not None and entry.settings[ESTIMATED] else ""
    statistic = draws.chosen()
    counts = {n: len(draws.null(statistic, n)) for n in draws.lengths(statistic)}
    if not any(resolves(count, ALPHA) for count in counts.values()):
        return (
            f"Calibrated {method.name} by {max(counts.values(), default=0)} control queries: too"
            f" few for verdicts at alpha {ALPHA:g}."
        )
    powers = draws.powers(statistic)
    each = ", ".join(f"{powers[n]:.0%} at {n}" for n, c in counts.items() if resolves(c, ALPHA))
    return (
        f"Calibrated {method.name} by {max(counts.values()):,} control queries: the"
        f" {estimated}{statistic} separates best; power at alpha {ALPHA:g} by tokens of the"
        f" response: {each}."
    )


def _keep_groups(writer: SupplementWriter, index: Index, progress: Progress) -> np.ndarray:
    import torch

    fields = _field_values(index)
    settings = {"format": FORMAT, "alike": ALIKE, "field": any(f is not None for f in fields)}
    if writer.begin(GROUPS, settings) < 0:
        groups = read_groups(index)
        assert groups is not None
        return groups
    writer.restart(GROUPS)
    progress.start("looking for near copies", None)
    groups = joined_groups(near_copy_groups(_texts(index)), fields)
    writer.add_tensors(GROUPS, {"groups": torch.from_numpy(groups)}, {})
    writer.finish(GROUPS)
    return groups


def _texts(index: Index) -> Iterator[str]:
    """The text of each record; where windows overlap, so does it."""
    for _, windows in groupby(index.iter_windows(), key=lambda window: window.record):
        yield "\n".join(window.text for window in windows)


def _field_values(index: Index) -> list[str | None]:
    if index.settings["corpus"].get("group_field") is None:
        return [None] * index.manifest.totals.records
    return [window.group for window in index.iter_windows() if window.window == 0]


class _Calibrator:
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
        self.estimated = fits and self._takes_long(controls)
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
                by_record = self._by_record(estimate)
                field = Field(by_record, by_record, self._groups)
                yield _draw(field, control, self._left_out(control))

    def _directions(self, controls: Sequence[Control]) -> int:
        """Query-side vectors of these controls."""
        if self._late is None:
            return len(controls)
        return sum(control.length if self._late.by_token else 1 for control in controls)

    def _part(self, controls: Sequence[Control], progress: Progress) -> list[Draw]:
        questions = [self._question(control) for control in controls]
        projected = self._tracer.candidates.backgrounds(questions, self._method, self._settings)
        left_out = [self._left_out(control) for control in controls]
        rows: list[int] | None = None
        if not self._whole:
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

        Of the former one at least is no near copy of the first, so that there is a margin.
        """
        assert projected is not None
        groups = self._groups[self._record_N]
        copies = _copies(self._groups, control)[self._record_N]
        kept = np.where(left_out[self._record_N], -np.inf, projected)
        best = _largest(kept, self._proposals)
        copied = _largest(np.where(copies, projected, -np.inf), self._proposals)
        rows = {*best, *(copied or [control.row])}
        if not best:
            return rows
        others = np.where(groups == groups[best[0]], -np.inf, kept)
        rival = int(np.argmax(others))
        return rows | {rival} if np.isfinite(others[rival]) else rows

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
    return [int(row) for row in best if np.isfinite(values_N[row])]


def _draw(field: Field, control: Control, left_out: np.ndarray) -> Draw:
    undefined = dict.fromkeys(STATISTICS, float("nan"))
    first = field.first(left_out)
    null = undefined if first is None else field.values(first, left_out)
    copy = field.first(~_copies(field.groups, control))
    source = control.record if copy is None else copy
    return Draw(control.length, null, field.values(source, left_out))


def _copies(groups: np.ndarray, control: Control) -> np.ndarray:
    """[R] True for the near copies of a control's record that hold its span, not the record."""
    holding = np.zeros(len(groups), dtype=bool)
    holding[control.containing] = True
    holding[control.record] = False
    return holding & (groups == groups[control.record])
