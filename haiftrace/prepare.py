"""Use case: what methods need beyond an index's rows is computed once, into the index.

It is computed from the index itself, which holds the records' tokens: the corpus is not read again.
A kept file is durable before the next is begun, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods import (
    INVERSE,
    GradientMethod,
    Method,
    Rule,
    TrajectoryMethod,
    check_rule,
    find_methods,
    follows_run,
)
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.factors import Curvature, keep_factors, require_factors
from haiftrace.scoring.norms import KeptNorms, NormSource, kept_norms, needs_of, rule_of
from haiftrace.scoring.trajectory import SUPPLEMENT as TRAJECTORY
from haiftrace.scoring.trajectory import (
    TrajectoryScorer,
    WindowSums,
    attif_settings,
    training_run,
)
from haiftrace.store import Index, StoredWindow, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.checkpoint import Checkpoint
    from haiftrace.engine import Batch, GradientEngine

Values = dict[str, float | np.ndarray]


def check_needs(checkpoint: Checkpoint, scope: str, methods: str, settings: MethodSettings) -> None:
    """Refuses before hours of indexing what could not be kept after them.

    Args:
        scope: the parameters of the index, as `haiftrace.scopes` reads them.

    Raises:
        UsageError, CheckpointError: why.
    """
    from haiftrace.engine import GradientEngine
    from haiftrace.scopes import select_parameters

    chosen = find_methods(methods)
    check_rule(chosen, Rule(settings.adjustment, 0.0, settings.combine))
    along = [method.name for method in chosen if follows_run(method)]
    if along:
        training_run(", ".join(along), settings, checkpoint)
    if _with_curvature(chosen):
        engine = GradientEngine(checkpoint.model, select_parameters(checkpoint.model, scope))
        require_factors(engine, settings.factors)


def prepare(
    path: Path,
    checkpoint: Checkpoint,
    methods: str,
    settings: MethodSettings,
    memory: int,
    progress: Progress,
) -> None:
    """Computes what the methods need into the index at `path`; what it holds already is kept.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or settings.
    """
    from haiftrace.engine import GradientEngine
    from haiftrace.scopes import select_parameters

    chosen = find_methods(methods)
    check_rule(chosen, Rule(settings.adjustment, 0.0, settings.combine))
    trajectory = training_run("attif", settings, checkpoint) if _along_a_run(chosen) else None
    by_gradient = [m for m in chosen if isinstance(m, GradientMethod)]
    with Index.open(path) as index:
        rule = rule_of(index, chosen, settings)
        names = select_parameters(checkpoint.model, index.settings["scope"])
        engine = GradientEngine(checkpoint.model, names, memory)
        curvature = Curvature(index, engine, settings.factors, progress, "")
        norms = kept_norms(needs_of(by_gradient, rule), rule, curvature)
        if _with_curvature(chosen):
            with SupplementWriter(path) as writer:
                keep_factors(writer, index, engine, settings.factors, progress)
    for kept in norms:
        # Opened anew: the norms are those under the factors that were just kept.
        with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
            curvature = Curvature(index, engine, settings.factors, progress, "")
            needs = frozenset(kept.needs)
            source = NormSource(index, engine, curvature, needs, rule, stored=False)
            _keep_norms(writer, kept, index, engine, source, progress)
    if trajectory is not None:
        with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
            scorer = TrajectoryScorer(index, engine, trajectory, rule, memory, stored=False)
            wanted = attif_settings(trajectory, rule)

            def along(rows: Sequence[int]) -> Iterator[Values]:
                return (_along(one) for one in scorer.norms(rows, progress))

            _keep_by_shard(writer, TRAJECTORY, wanted, index, progress, along)
    beyond = [method.name for method in chosen if not _is_kept(method, norms)]
    if beyond:
        progress.say(f"Nothing has to be kept for {', '.join(beyond)}.")


def _along_a_run(methods: Sequence[Method]) -> bool:
    return any(isinstance(m, TrajectoryMethod) and m.adjusted for m in methods)


def _with_curvature(methods: Sequence[Method]) -> bool:
    return any(isinstance(m, GradientMethod) and m.direction == INVERSE for m in methods)


def _is_kept(method: Method, norms: Sequence[KeptNorms]) -> bool:
    if isinstance(method, TrajectoryMethod):
        return method.adjusted
    if not isinstance(method, GradientMethod):
        return False
    adjusted = method.adjusted and any(kept.name == "adjusted-norms" for kept in norms)
    return method.direction == INVERSE or adjusted


def _keep_norms(
    writer: SupplementWriter,
    kept: KeptNorms,
    index: Index,
    engine: GradientEngine,
    source: NormSource,
    progress: Progress,
) -> None:
    def of_batch(windows: Sequence[StoredWindow], batch: Batch) -> Iterator[Values]:
        for window, norms in zip(windows, source.of(windows, batch), strict=True):
            yield {
                need.kind: _at_labels(getattr(norms, need.kind)[need.metric], window)
                for need in kept.needs
            }

    of_rows = _by_batch(index, engine, of_batch, progress)
    _keep_by_shard(writer, kept.name, kept.settings, index, progress, of_rows)


def _by_batch(
    index: Index,
    engine: GradientEngine,
    of_batch: Callable[[Sequence[StoredWindow], Batch], Iterable[Values]],
    progress: Progress,
) -> Callable[[Sequence[int]], Iterator[Values]]:
    """What is kept of rows, in their order, from what is found of batches of windows."""

    def of_rows(rows: Sequence[int]) -> Iterator[Values]:
        found: dict[int, Values] = {}
        for windows in window_batches(index, rows, engine.device):
            of_windows = of_batch(windows, batch_of(windows, engine.device))
            found.update(zip((window.row for window in windows), of_windows, strict=True))
            progress.advance(len(windows), records=len(windows), tokens=token_count(windows))
        return (found[row] for row in rows)

    return of_rows


def _at_labels(value: float | np.ndarray, window: StoredWindow) -> float | np.ndarray:
    return value[np.asarray(window.labels)] if isinstance(value, np.ndarray) else value


def _along(one: WindowSums) -> Values:
    norms: Values = {f"token_norms_{t}": part for t, part in enumerate(one.token_norms)}
    return {**norms, "adjusted_norm": one.adjusted_norm}


def _keep_by_shard(
    writer: SupplementWriter,
    name: str,
    settings: Mapping[str, object],
    index: Index,
    progress: Progress,
    of_rows: Callable[[Sequence[int]], Iterator[Values]],
) -> None:
    """Keeps a row a window, one shard after the other, from the first that is not there yet."""
    done = writer.begin(name, settings)
    if done < 0:
        return
    shards = index.shard_rows()
    progress.start(f"keeping {name}", float(sum(map(len, shards[done:]))))
    if done:
        progress.say(f"Going on with {name} after {sum(map(len, shards[:done])):,} windows.")
    for rows in islice(shards, done, None):
        writer.add_rows(name, list(of_rows(rows)))
    writer.finish(name)
