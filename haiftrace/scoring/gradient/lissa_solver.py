"""(H + λ)⁻¹v by LiSSA, with the curvature of record windows sampled from the index.

H is the curvature of the training loss, the mean over windows of the mean token loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haiftrace.errors import UsageError
from haiftrace.methods.settings import SeriesSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of
from haiftrace.store import Index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from haiftrace.engine import Diverged, GradientEngine


SOLVED = 0.05
"""Share of the query's gradient that may be left before a finding warns of it."""


class LissaSolver:
    """(H + λ)⁻¹ of an index's records; the largest eigenvalue is computed once for all queries."""

    def __init__(
        self, index: Index, engine: GradientEngine, settings: SeriesSettings, progress: Progress
    ) -> None:
        self._samples = _SampledCurvature(index, engine, settings, progress)
        self._settings = settings
        self._progress = progress
        self._largest: float | None = None

    def solve(self, gradient: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The solution by parameter name, and a warning where much of the gradient is left.

        Raises:
            UsageError: the series diverges, so that there is none.
        """
        from haiftrace.engine import Diverged, inverse_product_auto

        settings = self._settings
        self._progress.start("LiSSA", float(settings.depth * settings.repeats))
        try:
            damping, largest = settings.damping.value, None
            if settings.damping.relative or settings.scale is None:
                largest = self._largest_eigenvalue(gradient)
            if settings.damping.relative:
                damping *= largest or 0.0
            result = inverse_product_auto(
                self._samples.product,
                gradient,
                damping,
                settings.scale,
                settings.depth,
                settings.repeats,
                largest=largest,
            )
        except Diverged as error:
            raise _refusal(error, settings) from None
        left, noise = result.residual, result.resolution
        note = (
            f"LiSSA: {result.repeats} series of {result.depth} steps, damping"
            f" {result.damping:.3g}, scale {result.scale:.3g}; {_left(left, noise)} of the query's"
            " gradient is left unsolved"
        )
        self._progress.say(f"{note}.")
        return result.solution, [note] if max(left, noise) > SOLVED else []

    def _largest_eigenvalue(self, like: dict[str, Tensor]) -> float:
        from haiftrace.engine import largest_sampled_eigenvalue

        if self._largest is None:
            self._largest = largest_sampled_eigenvalue(
                self._samples.product, like, self._settings.seed
            )
        return self._largest


def _left(residual: float, resolution: float) -> str:
    return f"{residual:.1%}" if residual > resolution else f"less than {resolution:.1%}"


class _SampledCurvature:
    """The curvature of a few windows: sample i is the same windows in every call."""

    def __init__(
        self, index: Index, engine: GradientEngine, settings: SeriesSettings, progress: Progress
    ) -> None:
        self._index = index
        self._engine = engine
        self._settings = settings
        self._progress = progress
        self._size = min(settings.batch, len(index))

    def product(self, sample: int, direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The sample's curvature times a direction."""
        generator = np.random.default_rng([self._settings.seed, sample])
        rows = np.sort(generator.choice(len(self._index), self._size, replace=False))
        batch = batch_of(list(self._index.iter_windows(rows)), self._engine.device)
        labels_BT = batch.labels_BT.double()
        weights_BT = labels_BT / labels_BT.sum(1, keepdim=True) / batch.size
        product = self._engine.curvature_product(
            batch, weights_BT, direction, self._settings.curvature
        )
        self._progress.advance(1.0, records=batch.size, tokens=sum(batch.lengths))
        return product


def _refusal(error: Diverged, settings: SeriesSettings) -> UsageError:
    what = f"LiSSA's series diverges (after {error.step} steps), so it gives no scores"
    if error.negative_curvature:
        why = "the curvature has negative eigenvalues beyond the damping"
        hint = "Use --curvature gauss-newton, which has none, or a larger --damping."
        if settings.curvature == "gauss-newton":
            hint = "Use a larger --damping."
    elif error.scale_too_small:
        why = f"the scale of {error.scale:.3g} is below half of the largest eigenvalue"
        hint = "Use --scale auto, or a larger --scale."
    else:
        why = f"what is left of the query's gradient is {error.growth:.3g} times it"
        hint = "Use a larger --damping, more --repeats, or --scale auto."
    return UsageError(f"{what}: {why}.", hint)
