"""The norms that methods divide by, of batches of stored windows.

What the index's rows or supplements hold is taken from there; the rest is computed by the engine,
exactly, for the windows at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.methods import (
    GRADIENT,
    INVERSE,
    GradientMethod,
    Method,
    Rule,
    WindowNorms,
    check_rule,
)
from haiftrace.methods.adjustment import HAIF, NONE
from haiftrace.methods.settings import MethodSettings
from haiftrace.scoring.factors import Curvature
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from haiftrace.engine import Batch, GradientEngine, Metric

TOKENS, MEAN, ADJUSTED = "token_norms", "mean_norm", "adjusted_norm"


@dataclass(frozen=True)
class Need:
    """One kind of norm: which (as `WindowNorms` names it), and in which metric."""

    kind: str
    metric: str


def rule_of(index: Index, methods: Sequence[Method], settings: MethodSettings) -> Rule:
    """The rule of the methods that adjust; a `soft:C` takes its quantile from the whole index.

    Raises:
        UsageError: none of the methods follows it.
    """
    check_rule(methods, Rule(settings.adjustment, 0.0, settings.combine))
    quantile = settings.adjustment.quantile
    at_quantile = 0.0 if quantile is None else index.token_norm_quantile(quantile)
    return Rule(settings.adjustment, at_quantile, settings.combine)


def needs_of(methods: Sequence[GradientMethod], rule: Rule) -> frozenset[Need]:
    """The norms that the methods look at."""
    needs: set[Need] = set()
    for method in methods:
        if method.needs_tokens():
            needs.add(Need(TOKENS, method.metric))
        if method.needs_adjusted(rule):
            needs.add(Need(ADJUSTED, method.metric))
        if method.needs_mean():
            needs.add(Need(MEAN, method.metric))
    return frozenset(needs)


@dataclass(frozen=True)
class KeptNorms:
    """A supplement of norms: its name, what it holds, and what these depend on."""

    name: str
    needs: tuple[Need, ...]
    settings: dict[str, Any]


def kept_norms(needs: frozenset[Need], rule: Rule, curvature: Curvature) -> list[KeptNorms]:
    """The supplements that hold the needed norms which an index's rows do not have."""
    kept = []
    if Need(MEAN, INVERSE) in needs:
        settings = curvature.settings.damped()
        kept.append(KeptNorms("relatif-norms", (Need(MEAN, INVERSE),), settings))
    if Need(TOKENS, INVERSE) in needs:
        both = (Need(TOKENS, INVERSE), Need(ADJUSTED, INVERSE))
        settings = {**curvature.settings.damped(), "adjust": str(rule.adjustment)}
        kept.append(KeptNorms("ahif-norms", both, settings))
    if Need(ADJUSTED, GRADIENT) in needs and rule.adjustment not in (HAIF, NONE):
        settings = {"adjust": str(rule.adjustment)}
        kept.append(KeptNorms("adjusted-norms", (Need(ADJUSTED, GRADIENT),), settings))
    return kept


class NormSource:
    """Norms of stored windows, from where they are.

    Args:
        needs: the norms to give.
        stored: False to compute even those that supplements hold.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        curvature: Curvature,
        needs: frozenset[Need],
        rule: Rule,
        stored: bool = True,
    ) -> None:
        self._index = index
        self._engine = engine
        self._curvature = curvature
        self._rule = rule
        self._supplements: dict[Need, str] = {}
        self.missing: list[str] = []
        for kept in kept_norms(needs, rule, curvature):
            entry = index.supplement(kept.name) if stored else None
            if entry is not None and entry.settings == kept.settings:
                self._supplements |= dict.fromkeys(kept.needs, kept.name)
            else:
                self.missing.append(kept.name)
        self._computed = [need for need in sorted(needs, key=str) if not self._is_at_hand(need)]

    def _is_at_hand(self, need: Need) -> bool:
        if need in self._supplements:
            return True
        if need.metric != GRADIENT:
            return False
        return need.kind != ADJUSTED or self._rule.adjustment in (HAIF, NONE)

    def of(self, windows: Sequence[StoredWindow], batch: Batch) -> list[WindowNorms]:
        """The norms of each window; `batch` holds the same windows."""
        found: list[dict[str, dict[str, Any]]] = [
            {TOKENS: {}, MEAN: {}, ADJUSTED: {}} for _ in windows
        ]
        for window, norms in zip(windows, found, strict=True):
            self._from_row(window, norms)
            for need, name in self._supplements.items():
                values = self._index.supplement_values(name, window.row)
                norms[need.kind][need.metric] = at_tokens(values[need.kind], window)
        if self._computed:
            self._compute(windows, batch, found)
        return [
            WindowNorms(np.asarray(window.labels), norms[TOKENS], norms[MEAN], norms[ADJUSTED])
            for window, norms in zip(windows, found, strict=True)
        ]

    def _from_row(self, window: StoredWindow, norms: dict[str, dict[str, Any]]) -> None:
        norms[TOKENS][GRADIENT] = window.token_grad_norm
        norms[MEAN][GRADIENT] = window.grad_norm
        if self._rule.adjustment == HAIF:
            norms[ADJUSTED][GRADIENT] = window.haif_norm
        elif self._rule.adjustment == NONE:
            norms[ADJUSTED][GRADIENT] = window.grad_norm * sum(window.labels)

    def _compute(
        self,
        windows: Sequence[StoredWindow],
        batch: Batch,
        found: list[dict[str, dict[str, Any]]],
    ) -> None:
        import torch

        for name in sorted({need.metric for need in self._computed}):
            metric: Metric | None = self._curvature.inverse if name == INVERSE else None
            kinds = {need.kind for need in self._computed if need.metric == name}
            if TOKENS in kinds:
                norms_BT = self._engine.token_gradients(batch, metric=metric).norms_BT.cpu().numpy()
                for row, window, norms in zip(norms_BT, windows, found, strict=True):
                    norms[TOKENS][name] = row[: len(window.token_ids)]
            wanted = [kind for kind in (MEAN, ADJUSTED) if kind in kinds]
            if not wanted:
                continue
            weights_NBT = np.zeros((len(wanted), *batch.ids_BT.shape))
            for at, (window, norms) in enumerate(zip(windows, found, strict=True)):
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
                for norm, norms in zip(row, found, strict=True):
                    norms[kind][name] = norm


def at_tokens(value: Any, window: StoredWindow) -> Any:
    """Numbers of the labels at all tokens of the window."""
    if not isinstance(value, np.ndarray):
        return value
    full = np.zeros(len(window.labels))
    full[np.asarray(window.labels)] = value
    return full
