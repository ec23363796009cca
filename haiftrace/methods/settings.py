"""The settings of methods: plain values, read from the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from haiftrace.errors import UsageError
from haiftrace.methods.adjustment import HAIF, Adjustment
from haiftrace.methods.families import EK_FAC, LISSA, Combine, Method


@dataclass(frozen=True)
class DampingSetting:
    """λ: an absolute number, or a multiple of a scale that the method takes from the curvature."""

    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> DampingSetting:
        """Read `1e-4` (absolute) or `0.1x` (relative).

        Raises:
            UsageError: it is neither, negative or not finite.
        """
        relative = text.endswith("x")
        try:
            value = float(text.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not (0 <= value < math.inf):
            raise UsageError(
                f"'{text}' is no damping.",
                "Give a number that is added to the curvature, like 1e-4, or a multiple of its"
                " mean eigenvalue (EK-FAC) or largest (LiSSA), like 0.1x.",
            )
        return cls(value, relative)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.value:g}{'x' if self.relative else ''}"


@dataclass(frozen=True)
class FactorSettings:
    """EK-FAC.

    Attributes:
        fisher: labels drawn from the model's predictions, or the records' own.
        records: how many record windows the factors are fitted to, a seeded sample; None for all.
        damping: relative to each matrix's mean eigenvalue, or absolute.
        seed: of sample and drawn labels.
    """

    fisher: Literal["true", "empirical"] = "true"
    records: int | None = None
    damping: DampingSetting = DampingSetting(0.1, True)
    seed: int = 0

    def fitted(self) -> dict[str, Any]:
        """What the factors themselves depend on."""
        return {"fisher": self.fisher, "records": self.records, "seed": self.seed}

    def damped(self) -> dict[str, Any]:
        """What norms under the inverse depend on."""
        return {**self.fitted(), "damping": str(self.damping)}


@dataclass(frozen=True)
class SeriesSettings:
    """LiSSA.

    Attributes:
        depth: steps of the series.
        repeats: series that are averaged.
        scale: σ, which the curvature plus damping is divided by; None to find it.
        damping: relative to the curvature's largest eigenvalue, or absolute.
        curvature: Gauss-Newton, which has no negative eigenvalues, or the Hessian itself.
        batch: records of a step.
        seed: of the samples of records.
    """

    depth: int = 500
    repeats: int = 1
    scale: float | None = None
    damping: DampingSetting = DampingSetting(0.01, True)
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton"
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class MethodSettings:
    """Everything that methods can be set to; each looks at its own.

    Attributes:
        adjustment, combine: of the methods that adjust token gradients.
        factors: of those with EK-FAC's curvature.
        series: of LiSSA.
        checkpoints: of those over a training run: a Trainer's directory, or PATH:LR,PATH:LR.
    """

    adjustment: Adjustment = HAIF
    combine: Combine = "sum"
    factors: FactorSettings = field(default_factory=FactorSettings)
    series: SeriesSettings = field(default_factory=SeriesSettings)
    checkpoints: str | None = None

    def described(self, methods: Sequence[Method]) -> dict[str, str | int | float | bool | None]:
        """What these methods look at of it, for a report."""
        values: dict[str, str | int | float | bool | None] = {}
        if any(method.adjusted for method in methods):
            values |= {"adjust": str(self.adjustment), "combine": self.combine}
        curvatures = {method.curvature for method in methods}
        if EK_FAC in curvatures:
            factors = self.factors
            values |= {
                "fisher": factors.fisher,
                "factor_records": factors.records,
                "factor_seed": factors.seed,
                "ek-fac damping": str(factors.damping),
            }
        if LISSA in curvatures:
            series = self.series
            values |= {
                "depth": series.depth,
                "repeats": series.repeats,
                "scale": series.scale,
                "curvature": series.curvature,
                "lissa damping": str(series.damping),
            }
        if any(method.follows_run for method in methods):
            values["checkpoints"] = self.checkpoints
        return values

    def options(self, methods: Sequence[Method]) -> list[str]:
        """The options of `haiftrace index` that keep what these methods need, and no others."""
        plain = MethodSettings()
        given: dict[str, tuple[object, object]] = {}
        if any(method.adjusted for method in methods):
            given["--adjust"] = (str(self.adjustment), str(plain.adjustment))
        if any(method.curvature == EK_FAC for method in methods):
            given["--fisher"] = (self.factors.fisher, plain.factors.fisher)
            given["--damping"] = (str(self.factors.damping), str(plain.factors.damping))
            given["--factor-records"] = (self.factors.records, None)
            given["--seed"] = (self.factors.seed, plain.factors.seed)
        if any(method.follows_run for method in methods):
            given["--checkpoints"] = (self.checkpoints, None)
        return [
            text
            for name, (value, default) in given.items()
            if value != default
            for text in (name, str(value))
        ]
