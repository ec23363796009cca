"""The norms that methods divide by, of batches of stored windows.

What the index's supplements hold is taken from there; the rest is computed by the engine, exactly,
for the windows at hand.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.errors import UsageError
from haiftrace.methods import (
    EK_FAC,
    IDENTITY,
    Method,
    Rule,
    WindowNorms,
    check_rule,
)
from haiftrace.methods.adjustment import HAIF
from haiftrace.methods.families import ADJUSTED, MEAN, TOKENS, NormKind
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.gradient.stored_factors import Curvature
from haiftrace.store import Index, StoredWindow
from haiftrace.store.quantile import streamed_quantile

if TYPE_CHECKING:
    from haiftrace.engine import Batch, GradientEngine, Metric

HAIF_NORMS = "haif-norms"
"""The supplement of plain gradients' norms; its adjusted ones are under HAIF's own adjustment."""


RELATIF_NORMS, AHIF_NORMS = "relatif-norms", "ahif-norms"
"""The supplements of norms of preconditioned gradients: of records', and of tokens' too."""


def norm_supplements(method: Method) -> list[str]:
    """The supplements of norms that spare a method's traces much; some take none."""
    names = {
        NormKind(TOKENS, IDENTITY): HAIF_NORMS,  # that of the mean costs as much as any backward
        NormKind(MEAN, EK_FAC): RELATIF_NORMS,
        NormKind(TOKENS, EK_FAC): AHIF_NORMS,
    }
    needs = method.needed_norms(Rule())
    return sorted({names[need] for need in needs if need in names})


def rule_of(index: Index, methods: Sequence[Method], settings: MethodSettings) -> Rule:
    """The rule of the methods that adjust; a `soft:C` takes its quantile from the whole index.

    Raises:
        UsageError: none of the methods follows it, or the index does not hold what it takes.
    """
    check_rule(methods, Rule(settings.adjustment, 0.0, settings.combine))
    quantile = settings.adjustment.quantile
    at_quantile = 0.0 if quantile is None else _norm_quantile(index, settings, quantile)
    return Rule(settings.adjustment, at_quantile, settings.combine)


def _norm_quantile(index: Index, settings: MethodSettings, quantile: float) -> float:
    if index.supplement(HAIF_NORMS) is None:
        command = f"haiftrace index -o {shlex.quote(index.place)} --method haif"
        raise UsageError(
            f"--adjust {settings.adjustment} takes a quantile of the gradient norms of all the"
            f" corpus' tokens, and the index {index.path} does not hold these.",
            f"Compute them into the index, a backward pass a token: {command}",
        )
    return streamed_quantile(lambda: index.supplement_column(HAIF_NORMS, TOKENS), quantile)


def needs_of(methods: Sequence[Method], rule: Rule) -> frozenset[NormKind]:
    """The norms that the methods look at."""
    return frozenset().union(*(method.needed_norms(rule) for method in methods))


@dataclass(frozen=True)
class KeptNorms:
    """A supplement of norms: its name, what it holds, and what these depend on."""

    name: str
    needs: tuple[NormKind, ...]
    settings: dict[str, Any]


def haif_norms() -> KeptNorms:
    """The supplement of plain gradients' norms."""
    needs = tuple(NormKind(kind, IDENTITY) for kind in (TOKENS, MEAN, ADJUSTED))
    return KeptNorms(HAIF_NORMS, needs, {"adjust": str(HAIF)})


def kept_norms(needs: frozenset[NormKind], rule: Rule, curvature: Curvature) -> list[KeptNorms]:
    """The supplements that hold the needed norms but those of plain gradients (`haif_norms`)."""
    kept = []
    if NormKind(MEAN, EK_FAC) in needs:
        settings = curvature.settings.damped()
        kept.append(KeptNorms(RELATIF_NORMS, (NormKind(MEAN, EK_FAC),), settings))
    if NormKind(TOKENS, EK_FAC) in needs:
        both = (NormKind(TOKENS, EK_FAC), NormKind(ADJUSTED, EK_FAC))
        settings = {**curvature.settings.damped(), "adjust": str(rule.adjustment)}
        kept.append(KeptNorms(AHIF_NORMS, both, settings))
    if NormKind(ADJUSTED, IDENTITY) in needs and rule.adjustment != HAIF:
        settings = {"adjust": str(rule.adjustment)}
        kept.append(KeptNorms("adjusted-norms", (NormKind(ADJUSTED, IDENTITY),), settings))
    return kept


class NormSource:
    """Norms of stored windows, from where they are.

    Args:
        needs: the norms to give; with adjusted ones those of tokens.

    Attributes:
        missing: names of supplements whose norms are computed, at a cost worth to mention.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        curvature: Curvature,
        needs: frozenset[NormKind],
        rule: Rule,
    ) -> None:
        self._index = index
        self._engine = engine
        self._curvature = curvature
        self._rule = rule
        self._supplements: dict[NormKind, str] = {}
        self.missing: list[str] = []
        for kept in (haif_norms(), *kept_norms(needs, rule, curvature)):
            wanted = [need for need in kept.needs if need in needs and self._fits(kept, need)]
            entry = index.supplement(kept.name)
            if entry is not None and entry.settings == kept.settings:
                self._supplements |= dict.fromkeys(wanted, kept.name)
            elif kept.name != HAIF_NORMS or NormKind(TOKENS, IDENTITY) in wanted:
                self.missing.append(kept.name)
        self._computed = [need for need in sorted(needs, key=str) if need not in self._supplements]

    def _fits(self, kept: KeptNorms, need: NormKind) -> bool:
        own = self._rule.adjustment == HAIF
        return kept.name != HAIF_NORMS or need.kind != ADJUSTED or own

    def of(self, windows: Sequence[StoredWindow], batch: Batch) -> list[WindowNorms]:
        """The norms of each window; `batch` holds the same windows."""
        batch_norms: list[dict[str, dict[str, Any]]] = [
            {TOKENS: {}, MEAN: {}, ADJUSTED: {}} for _ in windows
        ]
        for window, norms in zip(windows, batch_norms, strict=True):
            for need, name in self._supplements.items():
                values = self._index.supplement_values(name, window.row)
                norms[need.kind][need.metric] = at_tokens(values[need.kind], window)
        if self._computed:
            self._compute(windows, batch, batch_norms)
        return [
            WindowNorms(np.asarray(window.labels), norms[TOKENS], norms[MEAN], norms[ADJUSTED])
            for window, norms in zip(windows, batch_norms, strict=True)
        ]

    def _compute(
        self,
        windows: Sequence[StoredWindow],
        batch: Batch,
        batch_norms: list[dict[str, dict[str, Any]]],
    ) -> None:
        import torch

        for name in sorted({need.metric for need in self._computed}):
            metric: Metric | None = self._curvature.inverse if name == EK_FAC else None
            kinds = {need.kind for need in self._computed if need.metric == name}
            if TOKENS in kinds:
                norms_BT = self._engine.token_gradients(batch, metric=metric).norms_BT.cpu().numpy()
                for row, window, norms in zip(norms_BT, windows, batch_norms, strict=True):
                    norms[TOKENS][name] = row[: len(window.token_ids)]
            wanted = [kind for kind in (MEAN, ADJUSTED) if kind in kinds]
            if not wanted:
                continue
            weights_NBT = np.zeros((len(wanted), *batch.ids_BT.shape))
            for at, (window, norms) in enumerate(zip(windows, batch_norms, strict=True)):
                labels = np.asarray(window.labels)
                for n, kind in enumerate(wanted):
                    row = (
                        labels / max(1, np.count_nonzero(labels))
                        if kind == MEAN
                        else self._rule.weights(norms[TOKENS][name])
                    )
                    weights_NBT[n, at, : len(labels)] = row
            given = torch.from_numpy(weights_NBT)
            norm_NB = self._engine.record_gradients(batch, given, metric=metric).norm_NB
            for kind, row in zip(wanted, norm_NB.tolist(), strict=True):
                for norm, norms in zip(row, batch_norms, strict=True):
                    norms[kind][name] = norm


def at_tokens(value: Any, window: StoredWindow) -> Any:
    """Numbers of the labels at all tokens of the window."""
    if not isinstance(value, np.ndarray):
        return value
    full = np.zeros(len(window.labels))
    full[np.asarray(window.labels)] = value
    return full
