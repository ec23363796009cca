"""The norms along a training run that ATTIF divides by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from haiftrace.index.supplements.precomputation import Precomputation
from haiftrace.index.supplements.shard_rows import Values, keep_by_shard
from haiftrace.methods import Method
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.trajectory.sums import (
    SUPPLEMENT,
    TrajectorySums,
    WindowSums,
    attif_settings,
    training_run,
)
from haiftrace.store import Index, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine


class AttifNorms:
    """Norms of every token at every checkpoint, and of the adjusted sum over them."""

    def serves(self, method: Method) -> bool:
        """Whether a method adjusts token gradients along a run."""
        return method.follows_run and method.adjusted

    def check(self, settings: MethodSettings, engine: Callable[[], GradientEngine]) -> None:
        """Every model has them; the training run is checked with the settings."""

    def keep(self, work: Precomputation) -> None:
        """A backward pass a token and checkpoint."""
        trajectory = training_run("attif", work.settings, work.checkpoint)
        with Index.open(work.path, verify=False) as index, SupplementWriter(work.path) as writer:
            rule = work.rule(index)
            sums = TrajectorySums(index, work.engine, trajectory, rule, work.memory, stored=False)

            def of_rows(rows: Sequence[int]) -> Iterator[Values]:
                return (_values(of_window) for of_window in sums.norms(rows, work.progress))

            wanted = attif_settings(trajectory, rule)
            keep_by_shard(writer, SUPPLEMENT, wanted, index, work.progress, of_rows)


def _values(sums: WindowSums) -> Values:
    norms: Values = {f"token_norms_{t}": norms for t, norms in enumerate(sums.token_norms)}
    return {**norms, "adjusted_norm": sums.adjusted_norm}
