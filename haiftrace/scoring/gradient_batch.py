"""Scores of many questions at once, without evidence: one weighted backward pass a record.

`Σ_j a_j (u·g_kj) = u · ∇ Σ_j a_j l_kj`, so a record's gradient under a method's weights, met with
every question's direction, gives all scores; a forward-mode pass a question is not needed. Methods
that combine tokens in another way than by a sum need the tokens themselves (see `gradient`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from haiftrace.checkpoint.trajectory import Trajectory
from haiftrace.methods import GradientMethod, Rule, TrajectoryMethod
from haiftrace.methods.families import inverse
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.norms import NormSource
from haiftrace.scoring.query_gradient import Direction, Question
from haiftrace.scoring.tracin import SUPPLEMENT, attif_settings
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine

Scores = dict[str, np.ndarray]
"""[Q, N] by the method's name: a row a question, a column a window of the index."""


class Asked(NamedTuple):
    """A question as a gradient method sees it: its query-side vector u, and ‖v‖."""

    direction: Direction
    query_norm: float


def score_many(
    index: Index,
    engine: GradientEngine,
    ask: Callable[[str], Iterable[Asked]],
    count: int,
    methods: Sequence[GradientMethod],
    rule: Rule,
    norms: NormSource,
    progress: Progress,
    rows: Sequence[int] | None = None,
) -> Scores:
    """Every window's score for every question, by methods that sum over tokens.

    Memory holds the vectors of all questions for one query side at a time.

    Args:
        ask: gives the questions, one after the other, by the name that methods know a side by.
        count: of the questions.
        rows: only these windows, ascending; a column of the result each.
    """
    assert rule.combine == "sum" or not any(method.adjusted for method in methods)
    places = range(len(index)) if rows is None else rows
    column = {row: place for place, row in enumerate(rows or ())}
    found = {method.name: np.zeros((count, len(places))) for method in methods}
    sides = list(dict.fromkeys(method.direction for method in methods))
    for number, name in enumerate(sides):
        here = [method for method in methods if method.direction == name]
        queries, lengths_Q, over_Q = _stack(engine, ask(name), count)
        # A side may take its own time to find: the rest of the work is told anew after it.
        progress.start("scoring records", float(len(places) * (len(sides) - number)))
        for windows in window_batches(index, places, engine.device):
            batch = batch_of(windows, engine.device)
            each = norms.of(windows, batch)
            weights_NBT = np.zeros((len(here), *batch.ids_BT.shape))
            for n, method in enumerate(here):
                for row, window_norms in zip(weights_NBT[n], each, strict=True):
                    factors_T = method.token_factors(window_norms, rule)
                    row[: len(factors_T)] = factors_T
            dots_NBQ = _dots(engine, batch, weights_NBT, queries)
            columns = [window.row if rows is None else column[window.row] for window in windows]
            for dots_BQ, method in zip(dots_NBQ, here, strict=True):
                scaled = dots_BQ * lengths_Q * (over_Q if method.over_query_norm else 1.0)
                found[method.name][:, columns] = scaled.T
            progress.advance(len(windows), tokens=token_count(windows))
    return found


def score_many_along(
    index: Index,
    engine: GradientEngine,
    trajectory: Trajectory,
    questions: Sequence[Question],
    methods: Sequence[TrajectoryMethod],
    rule: Rule,
    progress: Progress,
) -> Scores:
    """The same by methods over a training run; ATTIF's norms have to be in the index.

    Raises:
        KeyError: they are not.
    """
    assert rule.combine == "sum"
    adjusted = [method for method in methods if method.adjusted]
    if adjusted:
        entry = index.supplement(SUPPLEMENT)
        if entry is None or entry.settings != attif_settings(trajectory, rule):
            raise KeyError(SUPPLEMENT)
    found = {method.name: np.zeros((len(questions), len(index))) for method in methods}
    count = len(questions)
    # By whether a method is adjusted: its directions are those at the traced checkpoint, found
    # before another one's weights are in the model, or at each.
    stacks: dict[bool, _Stack] = {}
    if adjusted:
        stacks[True] = _stack(engine, _plain(q.passing() for q in questions), count)
    progress.start("scoring records along the training run", float(len(index)))
    with trajectory.visiting() as steps:
        for number, step in enumerate(steps):
            if len(adjusted) < len(methods):
                here = (Question(q.batch, lambda: engine) for q in questions)
                stacks[False] = _stack(engine, _plain(here), count)
            for method in methods:
                queries, lengths_Q, _ = stacks[method.adjusted]
                for windows in window_batches(index, range(len(index)), engine.device):
                    batch = batch_of(windows, engine.device)
                    weights_NBT = np.zeros((1, *batch.ids_BT.shape))
                    for row, window in zip(weights_NBT[0], windows, strict=True):
                        factors_T = _factors_at(index, window, number, method, rule)
                        row[: len(factors_T)] = factors_T * step.learning_rate
                    (dots_BQ,) = _dots(engine, batch, weights_NBT, queries)
                    rows = [window.row for window in windows]
                    found[method.name][:, rows] += (dots_BQ * lengths_Q).T
                    share = len(windows) / len(trajectory.steps) / len(methods)
                    progress.advance(share, tokens=token_count(windows))
    return found


def _factors_at(
    index: Index, window: StoredWindow, number: int, method: TrajectoryMethod, rule: Rule
) -> np.ndarray:
    labels = np.asarray(window.labels)
    if not method.adjusted:
        return labels / max(1, int(labels.sum()))
    values = index.supplement_values(SUPPLEMENT, window.row)
    factors = np.zeros(len(labels))
    factors[labels] = rule.weights(np.asarray(values[f"token_norms_{number}"]))
    return factors * inverse(float(values["adjusted_norm"]))


def _plain(questions: Iterable[Question]) -> Iterator[Asked]:
    for question in questions:
        yield Asked(question.direction, question.direction.norm)


_Stack = tuple[dict[str, "Tensor"], np.ndarray, np.ndarray]


def _stack(engine: GradientEngine, asked: Iterable[Asked], count: int) -> _Stack:
    """Unit vectors [Q, *parameter] by parameter name, their norms [Q], and 1/‖v‖ [Q].

    The vectors are taken one at a time, so that no more than one is held twice.
    """
    stacked: dict[str, Tensor] = {}
    norms_Q, over_Q = np.zeros(count), np.zeros(count)
    for place, one in enumerate(asked):
        for name in engine.parameters:
            unit = one.direction.unit[name]
            if name not in stacked:
                stacked[name] = unit.new_empty((count, *unit.shape))
            stacked[name][place] = unit
        norms_Q[place], over_Q[place] = one.direction.norm, inverse(one.query_norm)
    return stacked, norms_Q, over_Q


def _dots(
    engine: GradientEngine, batch: Batch, weights_NBT: np.ndarray, queries: dict[str, Tensor]
) -> np.ndarray:
    import torch

    # Weights of 1/norm are huge where gradients are tiny: brought to one scale for float32.
    scale_NB1 = np.abs(weights_NBT).max(-1, keepdims=True)
    scale_NB1[scale_NB1 == 0] = 1.0
    weights = torch.from_numpy(weights_NBT / scale_NB1)
    reduced = engine.record_gradients(batch, weights, queries=queries)
    assert reduced.dots_NBQ is not None
    dots: np.ndarray = reduced.dots_NBQ.cpu().numpy() * scale_NB1
    return dots
