"""The norms that methods over one checkpoint divide by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from haiftrace.index.supplements.precomputation import Precomputation
from haiftrace.index.supplements.shard_rows import Values, at_labels, by_batch, keep_by_shard
from haiftrace.methods import EK_FAC, Method, Rule
from haiftrace.methods.families import ADJUSTED, TOKENS, NormKind
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.gradient.norms import (
    KeptNorms,
    NormSource,
    haif_norms,
    kept_norms,
    needs_of,
)
from haiftrace.scoring.gradient.stored_factors import SUPPLEMENT as FACTORS
from haiftrace.store import Index, StoredWindow, SupplementWriter

if TYPE_CHECKING:
    from haiftrace.engine import Batch, GradientEngine


class PlainNorms:
    """Norms of gradients as they are: those of HAIF and its kin, a backward pass a token."""

    def serves(self, method: Method) -> bool:
        """Whether a method divides by these, and by nothing else."""
        return method.plain_norms

    def check(self, settings: MethodSettings, engine: Callable[[], GradientEngine]) -> None:
        """Every model has them."""

    def keep(self, work: Precomputation) -> None:
        """Those of every window, the adjusted ones under HAIF's own adjustment."""
        _keep(work, haif_norms(), Rule())


class OtherNorms:
    """Norms under another adjustment, or of preconditioned gradients: θ-RelatIF's and AHIF's."""

    def serves(self, method: Method) -> bool:
        """Whether a method may divide by them."""
        return method.curvature == EK_FAC or (method.plain_norms and method.adjusted)

    def check(self, settings: MethodSettings, engine: Callable[[], GradientEngine]) -> None:
        """Nothing beyond the factors, which are refused by themselves."""

    def keep(self, work: Precomputation) -> None:
        """Each kind that the methods take and that is not kept as a plain one."""
        with Index.open(work.path, verify=False) as index:
            rule = work.rule(index)
            kinds = kept_norms(needs_of(work.methods, rule), rule, work.curvature(index))
        for kept in kinds:
            _keep(work, kept, rule)


def _keep(work: Precomputation, kept: KeptNorms, rule: Rule) -> None:
    # Opened anew: the norms are those under the factors, and with the others, that were just kept.
    with Index.open(work.path, verify=False) as index, SupplementWriter(work.path) as writer:
        # Adjusted norms are formed from those of tokens, wherever these are.
        tokens = {NormKind(TOKENS, need.metric) for need in kept.needs if need.kind == ADJUSTED}
        needs = frozenset(kept.needs) | tokens
        source = NormSource(index, work.engine, work.curvature(index), needs, rule)

        def of_batch(windows: Sequence[StoredWindow], batch: Batch) -> Iterator[Values]:
            for window, norms in zip(windows, source.of(windows, batch), strict=True):
                yield {
                    need.kind: at_labels(getattr(norms, need.kind)[need.metric], window)
                    for need in kept.needs
                }

        of_rows = by_batch(index, work.engine, of_batch, work.progress)
        depends_on = [FACTORS] if any(need.metric == EK_FAC for need in needs) else []
        keep_by_shard(writer, kept.name, kept.settings, index, work.progress, of_rows, depends_on)
