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
    GRADIENT,
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
from haiftrace.scoring.indexed_gradients import choose_scope
from haiftrace.scoring.norms import (
    ADJUSTED,
    TOKENS,
    KeptNorms,
    Need,
    NormSource,
    haif_norms,
    kept_norms,
    needs_of,
    rule_of,
)
from haiftrace.scoring.stored_factors import Curvature, keep_factors, require_factors
from haiftrace.scoring.tracin import SUPPLEMENT as TRAJECTORY
from haiftrace.scoring.tracin import (
    TrajectoryScorer,
    WindowSums,
    attif_settings,
    training_run,
)
from haiftrace.store import Index, StoredWindow, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import Batch, GradientEngine

Values = dict[str, float | np.ndarray]


def check_needs(
    checkpoint: Checkpoint, scope: str | None, methods: str, settings: MethodSettings
) -> None:
    """Refuses before hours of indexing what could not be kept after them.

    Args:
        scope: the parameters of the index, as `choose_scope` takes them.

    Raises:
        UsageError, CheckpointError: why.
    """
    from haiftrace.engine import GradientEngine

    chosen = find_methods(methods)
    check_rule(chosen, Rule(settings.adjustment, 0.0, settings.combine))
    along = [method.name for method in chosen if follows_run(method)]
    if along:
        training_run(", ".join(along), settings, checkpoint)
    if _with_curvature(chosen):
        engine = GradientEngine(checkpoint.model, choose_scope(checkpoint, scope)[1])
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
    from haiftrace.parameters.scopes import select_parameters

    chosen = find_methods(methods)
    check_rule(chosen, Rule(settings.adjustment, 0.0, settings.combine))
    trajectory = training_run("attif", settings, checkpoint) if _along_a_run(chosen) else None
    by_gradient = [m for m in chosen if isinstance(m, GradientMethod)]
    with Index.open(path) as index:
        names = select_parameters(checkpoint.model, index.settings["scope"])
    engine = GradientEngine(checkpoint.model, names, memory)
    if any(map(_by_plain_norms, chosen)):
        _keep_norms(path, haif_norms(), engine, Rule(), settings, progress)
    with Index.open(path, verify=False) as index:
        rule = rule_of(index, chosen, settings)
        curvature = Curvature(index, engine, settings.factors, progress, "")
        beside = kept_norms(needs_of(by_gradient, rule), rule, curvature)
        if _with_curvature(chosen):
            with SupplementWriter(path) as writer:
                keep_factors(writer, index, engine, settings.factors, progress)
    for kept in beside:
        _keep_norms(path, kept, engine, rule, settings, progress)
    if trajectory is not None:
        with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
            scorer = TrajectoryScorer(index, engine, trajectory, rule, memory, stored=False)
            wanted = attif_settings(trajectory, rule)

            def along(rows: Sequence[int]) -> Iterator[Values]:
                return (_along(one) for one in scorer.norms(rows, progress))

            _keep_by_shard(writer, TRAJECTORY, wanted, index, progress, along)
    beyond = [method.name for method in chosen if not _is_kept(method)]
    if beyond:
        progress.say(f"Nothing has to be kept for {', '.join(beyond)}.")


def _along_a_run(methods: Sequence[Method]) -> bool:
    return any(isinstance(m, TrajectoryMethod) and m.adjusted for m in methods)


def _with_curvature(methods: Sequence[Method]) -> bool:
    return any(isinstance(m, GradientMethod) and m.direction == INVERSE for m in methods)


def _by_plain_norms(method: Method) -> bool:
    """Whether a method divides by norms of gradients as they are, and by nothing else."""
    return isinstance(method, GradientMethod) and {method.metric, method.direction} == {GRADIENT}


def _is_kept(method: Method) -> bool:
    if isinstance(method, TrajectoryMethod):
        return method.adjusted
    return isinstance(method, GradientMethod) and method.direction in (GRADIENT, INVERSE)


def _keep_norms(
    path: Path,
    kept: KeptNorms,
    engine: GradientEngine,
    rule: Rule,
    settings: MethodSettings,
    progress: Progress,
) -> None:
    # Opened anew: the norms are those under the factors, and with the others, that were just kept.
    with Index.open(path, verify=False) as index, SupplementWriter(path) as writer:
        curvature = Curvature(index, engine, settings.factors, progress, "")
        # Adjusted norms are formed from those of tokens, wherever these are.
        tokens = {Need(TOKENS, need.metric) for need in kept.needs if need.kind == ADJUSTED}
        needs = frozenset(kept.needs) | tokens
        source = NormSource(index, engine, curvature, needs, rule)

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
