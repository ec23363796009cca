"""Use case: what methods need beyond an index's rows is computed once, into the index.

It is computed from the index itself, which holds the records' tokens: the corpus is not read again.
A kept file is durable before the next is begun, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.index.supplements import SUPPLEMENTS, Precomputation, Supplement
from haiftrace.methods import Method, Rule, check_rule, find_methods
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.indexed_gradients import choose_scope
from haiftrace.scoring.trajectory.sums import training_run
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import GradientEngine


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
    along = [method.name for method in chosen if method.follows_run]
    if along:
        training_run(", ".join(along), settings, checkpoint)

    def engine() -> GradientEngine:
        return GradientEngine(checkpoint.model, choose_scope(checkpoint, scope)[1])

    for supplement in _needed(chosen):
        supplement.check(settings, engine)


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
    if any(method.follows_run and method.adjusted for method in chosen):
        training_run("attif", settings, checkpoint)
    with Index.open(path) as index:
        names = select_parameters(checkpoint.model, index.settings["scope"])
    engine = GradientEngine(checkpoint.model, names, memory)
    work = Precomputation(path, chosen, settings, checkpoint, engine, memory, progress)
    for supplement in _needed(chosen):
        supplement.keep(work)
    without = [
        method.name for method in chosen if not any(each.serves(method) for each in SUPPLEMENTS)
    ]
    if without:
        progress.say(f"Nothing has to be kept for {', '.join(without)}.")


def _needed(methods: Sequence[Method]) -> list[Supplement]:
    return [each for each in SUPPLEMENTS if any(each.serves(method) for method in methods)]
