"""The inverse of a curvature matrix, applied to a gradient: LiSSA's stochastic Neumann series.

`(B + λ)⁻¹ v` is the limit of `x_{t+1} = v + x_t - (B_t + λ) x_t / σ`, divided by σ, where the draw
B_t (the curvature of a few records) has the mean B (Agarwal et al. 2017; Koh and Liang 2017; Liu
and Yang 2024, eq. 4). It converges where every eigenvalue of B + λ lies between 0 and 2σ, and is
otherwise worth nothing: a series that is seen not to converge raises `Diverged`.

With a positive semi-definite B and σ no less than its largest eigenvalue plus λ, the part of v that
is left unsolved after t steps is at most `(1 - λ/σ)^t`, besides the noise of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from haiftrace.engine.directional import Direction
from haiftrace.engine.losses import widened

Product = Callable[[int, Direction], Direction]
"""The curvature of draw number i times a vector: a function of both alone."""

RELATIVE_DAMPING = 0.01
"""Default λ over the largest eigenvalue of the curvature's draws."""

DEPTH = 400
"""Default steps: with the default damping and scale `(1 - λ/σ)^DEPTH` is below 3 %."""

SAFETY = 1.1
"""Default σ over the largest eigenvalue found, plus λ; the series bears a factor of 2."""

EIGENVALUE_DRAWS = 8
RESIDUAL_DRAWS = 16
DOUBLINGS = 4
ROUNDING = 0.01
"""How far rounding in the products may take a norm beyond what is possible without."""

NO_CURVATURE = 1e-5
"""What rounding may make of no curvature at all, over σ."""


class Diverged(ArithmeticError):
    """The series does not converge: there is no solution to give.

    Attributes:
        step: steps that were taken.
        growth: ‖x‖ over ‖v‖ where the iterate grew out of bounds, or the residual at the end.
        along: `d·(B_t + λ)d / ‖d‖²`, the damped curvature along the diverging direction d, as far
            as it is known: below 0 shows curvature below -λ, above 2σ a too small σ.
        scale: σ.
    """

    def __init__(self, step: int, growth: float, along: float, scale: float) -> None:
        super().__init__(f"the Neumann series diverged: {growth:.3g} times its start at {step}")
        self.step, self.growth, self.along, self.scale = step, growth, along, scale

    @property
    def negative_curvature(self) -> bool:
        """The curvature has eigenvalues below -λ: no scale helps, a larger damping does."""
        return self.along < -NO_CURVATURE * self.scale

    @property
    def scale_too_small(self) -> bool:
        """Some draw's largest eigenvalue plus λ is above 2σ: a larger scale helps."""
        return self.along > 2 * self.scale


@dataclass(frozen=True)
class LissaResult:
    """A solution of `(B + λ) x = v` and how good it is.

    Attributes:
        solution: x by parameter name, in at least float32.
        residual: ‖v - (B + λ) x‖ / ‖v‖, estimated by some draws without bias (of its square).
        resolution: standard deviation of the mean of these draws, in the same unit: a residual
            below it cannot be told from zero.
        damping: λ.
        scale: σ.
        depth, repeats: steps of each series, and how many series x is the mean of.
    """

    solution: dict[str, Tensor]
    residual: float
    resolution: float
    damping: float
    scale: float
    depth: int
    repeats: int

    @property
    def truncation(self) -> float:
        """What the finite series leaves of the residual, at most, before the noise of the draws.

        It holds where the curvature has no eigenvalue below 0 or above `σ - λ`.
        """
        return abs(1 - self.damping / self.scale) ** (self.depth + 1)


def largest_eigenvalue(
    product_at: Callable[[Direction], Direction],
    start: Direction,
    iterations: int = 20,
    tolerance: float = 0.02,
) -> float:
    """The largest absolute eigenvalue of a symmetric matrix by power iteration, from below.

    Args:
        product_at: the matrix times a vector.
        start: any vector, not zero; best a random one (`random_direction`).
        tolerance: relative increase of an iteration at which to stop.
    """
    found = 0.0
    vector = start
    for _ in range(iterations):
        norm = _norm(vector)
        if norm == 0 or not math.isfinite(norm):
            break
        vector = product_at({name: part / norm for name, part in vector.items()})
        before, found = found, _norm(vector)
        # The first product of a random vector is small: hardly any of it is in the range.
        if before > 0 and found <= before * (1 + tolerance):
            break
    return found


def random_direction(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Standard normal numbers in the shapes of `like`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(part.shape, generator=generator).to(widened(part))
        for name, part in like.items()
    }


def inverse_product(
    product: Product,
    gradient: Direction,
    damping: float,
    scale: float,
    depth: int = DEPTH,
    repeats: int = 1,
) -> LissaResult:
    """`(B + λ)⁻¹ v` by `repeats` series of `depth` steps.

    Draws 0 to `repeats · depth - 1` make the series; some more after them tell how good it is.

    Args:
        product: the draws, each symmetric, of mean B.
        gradient: v.
        damping: λ, not negative.
        scale: σ, positive.

    Raises:
        Diverged: the series has left the bounds of a convergent one, has solved nothing of v, or
            goes astray along negative curvature.
        ValueError: a setting out of its range.
    """
    if not (damping >= 0 and scale > 0 and depth > 0 and repeats > 0):
        raise ValueError("damping >= 0, scale > 0, depth > 0 and repeats > 0 are needed")
    start = {name: widened(part) for name, part in gradient.items()}
    size = _norm(start)
    total = {name: torch.zeros_like(part) for name, part in start.items()}
    if size == 0:
        return LissaResult(total, 0.0, 0.0, damping, scale, depth, repeats)
    for repeat in range(repeats):
        end = _series(product, start, damping, scale, range(repeat * depth, (repeat + 1) * depth))
        for name, part in end.items():
            total[name].add_(part, alpha=1 / (scale * repeats))
    residual, resolution = _residual(product, start, total, damping, scale, repeats * depth)
    return LissaResult(total, residual, resolution, damping, scale, depth, repeats)


def largest_of_draws(product: Product, like: Direction, seed: int = 0) -> float:
    """The largest eigenvalue of some draws: the scale that damping and σ are relative to.

    Args:
        like: any vector in the parameters' shapes.
        seed: of the power iterations' start.

    Raises:
        Diverged: it is not finite.
    """
    probe = random_direction(like, seed)
    largest = max(
        largest_eigenvalue(lambda x, draw=draw: product(draw, x), probe)  # type: ignore[misc]
        for draw in range(EIGENVALUE_DRAWS)
    )
    if not math.isfinite(largest):
        raise Diverged(0, largest, math.nan, math.nan)
    return largest


def inverse_product_auto(
    product: Product,
    gradient: Direction,
    damping: float,
    largest: float,
    depth: int = DEPTH,
    repeats: int = 1,
) -> LissaResult:
    """`inverse_product` with σ chosen by the largest eigenvalue of some draws (see above).

    The scale is doubled a few times where the series shows that it is too small.

    Raises:
        Diverged, ValueError: as `inverse_product`.
    """
    scale = SAFETY * (largest + damping)
    for doubled in range(DOUBLINGS + 1):
        try:
            return inverse_product(product, gradient, damping, scale, depth, repeats)
        except Diverged as error:
            if doubled == DOUBLINGS or error.negative_curvature:
                raise
        scale *= 2
    raise AssertionError("unreachable")


def _series(
    product: Product, start: Direction, damping: float, scale: float, draws: range
) -> Direction:
    """The last iterate x, not yet divided by the scale."""
    bound = _norm(start)
    x = start
    for step, draw in enumerate(draws, 1):
        curved = product(draw, x)
        # Out of place: a product may hand back what it was given.
        after = {
            name: torch.add(part, x[name], alpha=1 - damping / scale).sub_(
                curved[name].to(part.dtype), alpha=1 / scale
            )
            for name, part in start.items()
        }
        norm = _norm(after)
        # Each step adds no more than ‖v‖ where ‖1 - (B_t + λ)/σ‖ <= 1.
        if not norm <= (step + 1) * bound * (1 + ROUNDING):
            along = _quotient(_dot(x, curved), _dot(x, x)) + damping
            raise Diverged(step, norm / bound, along, scale)
        x = after
    return x


def _residual(
    product: Product,
    gradient: Direction,
    solution: Direction,
    damping: float,
    scale: float,
    steps: int,
) -> tuple[float, float]:
    """The residual and its resolution, as in `LissaResult`; raises `Diverged`."""
    size = _norm(gradient)
    mean = {name: torch.zeros_like(part) for name, part in gradient.items()}
    squares = 0.0
    for draw in range(steps, steps + RESIDUAL_DRAWS):
        left = _left(gradient, solution, product(draw, solution), damping)
        squares += _dot(left, left) / RESIDUAL_DRAWS
        for name, part in left.items():
            mean[name].add_(part, alpha=1 / RESIDUAL_DRAWS)
    length = _dot(mean, mean)
    along = _curvature_along(product, mean, damping, steps + RESIDUAL_DRAWS)
    astray = Diverged(steps, math.sqrt(length) / size, along, scale)
    # x = 0 has the residual 1. What is left lies along the slowest directions: where these have
    # negative curvature it grows with every step, however small it still is.
    if not length < size**2 or astray.negative_curvature:
        raise astray
    # The squared length of the draws' mean is too long by its variance.
    variance = max(0.0, squares - length) / (RESIDUAL_DRAWS - 1)
    return math.sqrt(max(0.0, length - variance)) / size, math.sqrt(variance) / size


def _left(
    gradient: Direction, solution: Direction, curved: Direction, damping: float
) -> dict[str, Tensor]:
    """`v - (B_t + λ) x`."""
    return {
        name: torch.sub(part, solution[name], alpha=damping).sub_(curved[name].to(part.dtype))
        for name, part in gradient.items()
    }


def _curvature_along(product: Product, direction: Direction, damping: float, first: int) -> float:
    """`d·(B + λ)d / ‖d‖²` over some draws."""
    draws = range(first, first + RESIDUAL_DRAWS)
    dots = [_dot(direction, product(draw, direction)) for draw in draws]
    return _quotient(sum(dots) / len(dots), _dot(direction, direction)) + damping


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _dot(left: Direction, right: Direction) -> float:
    """Inner product over all parameters, formed in float64."""
    parts = [(part.double() * right[name].double()).sum() for name, part in left.items()]
    return float(torch.stack(parts).sum())


def _norm(vector: Direction) -> float:
    return math.sqrt(_dot(vector, vector))
