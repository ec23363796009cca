"""The inverse of a curvature matrix, applied to a gradient: LiSSA's stochastic Neumann series.

`(B + λ)⁻¹ v` is the limit of `x_{t+1} = v + x_t - (B_t + λ) x_t / σ`, divided by σ, where the draw
B_t (the curvature of a few records) has the mean B (Agarwal et al. 2017; Koh and Liang 2017; Liu
and Yang 2024, eq. 4). It converges where every eigenvalue of B + λ lies between 0 and 2σ, and is
otherwise worth nothing: a series that is seen not to converge raises `Diverged`.

With a positive semi-definite B and σ no less than its largest eigenvalue plus λ, t steps leave at
most `(1 - λ/σ)^(t + 1)` of v unsolved, besides the noise of the draws. More steps do not lessen
that noise, but the mean of the last iterates has little of it (Polyak and Juditsky 1992) and is
the solution here, in place of the last iterate alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from haiftrace.engine.jvp import Direction
from haiftrace.engine.losses import widened

Product = Callable[[int, Direction], Direction]
"""The curvature of draw number i times a vector: a function of both alone."""

RELATIVE_DAMPING = 0.01
"""Default λ over the largest eigenvalue of the curvature's draws."""

DEPTH = 500
"""Default steps: with the default damping and scale the series is cut off at 2 % of v."""

TAIL = 4
"""The solution is the mean of the last 1/TAIL of the iterates."""

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
        step: steps of the series that were taken.
        growth: ‖x‖ over ‖v‖ where the iterate grew out of bounds, or the residual at the end.
        along: `d·(B_t + λ)d / ‖d‖²`, the damped curvature along the direction d in which x went
            astray: below 0 it shows curvature below -λ, above 2σ a too small σ.
        scale: σ.
    """

    def __init__(self, step: int, growth: float, along: float, scale: float) -> None:
        super().__init__(
            f"the Neumann series diverged by step {step}, to {growth:.3g} times its start"
        )
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
        depth, repeats: steps of each series, and how many series there are.
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
        steps = range(self.depth - _tail(self.depth) + 1, self.depth + 1)
        return sum(abs(1 - self.damping / self.scale) ** (t + 1) for t in steps) / len(steps)


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

    Draws 0 to `repeats · depth - 1` make the series; the next ones tell how good it is.

    Args:
        product: the draws, each symmetric, of mean B.
        gradient: v.
        damping: λ, not negative.
        scale: σ, positive.

    Raises:
        Diverged: the series has left the bounds of a convergent one, has not been seen to solve
            anything of v, or goes astray along negative curvature.
        ValueError: a setting out of its range.
    """
    if not (damping >= 0 and scale > 0 and depth > 0 and repeats > 0):
        raise ValueError("damping >= 0, scale > 0, depth > 0 and repeats > 0 are needed")
    start = {name: widened(part) for name, part in gradient.items()}
    solution = {name: torch.zeros_like(part) for name, part in start.items()}
    if _norm(start) == 0:
        return LissaResult(solution, 0.0, 0.0, damping, scale, depth, repeats)
    drift = {name: torch.zeros_like(part) for name, part in start.items()}
    steps, tail = repeats * depth, _tail(depth)
    for first in range(0, steps, depth):
        iterates = _iterates(product, start, damping, scale, range(first, first + depth))
        for step, x in enumerate(iterates, 1):
            if step == max(1, depth // 2):
                _add(drift, x, -1.0)
            if step == depth:
                _add(drift, x, 1.0)
            if step > depth - tail:
                _add(solution, x, 1 / (scale * tail * repeats))
    checks = range(steps, steps + RESIDUAL_DRAWS)
    residual, resolution = _residual(product, start, solution, damping, checks)
    along = _curvature_along(product, drift, checks) + damping
    failure = Diverged(depth, math.hypot(residual, resolution), along, scale)
    # x = 0 has the residual 1. The way that x has gone in its second half lies along the slowest
    # directions: with negative curvature it goes on for ever, however small the residual still is.
    if not (failure.growth < 1 and along >= -NO_CURVATURE * scale):
        raise failure
    return LissaResult(solution, residual, resolution, damping, scale, depth, repeats)


def inverse_product_auto(
    product: Product,
    gradient: Direction,
    damping: float | None = None,
    scale: float | None = None,
    depth: int = DEPTH,
    repeats: int = 1,
    seed: int = 0,
    largest: float | None = None,
) -> LissaResult:
    """`inverse_product` with what is None chosen by the largest eigenvalue of some draws.

    The scale is doubled a few times where the series shows that it is too small.

    Args:
        seed: of the power iterations' start.
        largest: what `largest_of_draws` has found before.

    Raises:
        Diverged, ValueError: as `inverse_product`.
        ValueError: no damping given, and the draws' curvature is zero.
    """
    doublings = DOUBLINGS if scale is None else 0
    if damping is None or scale is None:
        if largest is None:
            largest = largest_of_draws(product, gradient, seed)
        damping = RELATIVE_DAMPING * largest if damping is None else damping
        scale = SAFETY * (largest + damping) if scale is None else scale
        if scale == 0:
            raise ValueError("the curvature is zero: it has no scale, and no damping by itself")
    while True:
        try:
            return inverse_product(product, gradient, damping, scale, depth, repeats)
        except Diverged as error:
            if error.negative_curvature or doublings == 0:
                raise
        doublings -= 1
        scale *= 2


def largest_of_draws(product: Product, like: Direction, seed: int = 0) -> float:
    """The largest eigenvalue of some draws: what damping and scale are relative to.

    Args:
        like: any vector in the parameters' shapes.
        seed: of the power iterations' start.

    Raises:
        Diverged: it is not finite.
    """
    start = random_direction(like, seed)
    found = [largest_eigenvalue(partial(product, n), start) for n in range(EIGENVALUE_DRAWS)]
    if not all(map(math.isfinite, found)):
        raise Diverged(0, math.nan, math.nan, math.nan)
    return max(found)


def _tail(depth: int) -> int:
    """How many of the last iterates make the solution."""
    return max(1, depth // TAIL)


def _iterates(
    product: Product, start: Direction, damping: float, scale: float, draws: range
) -> Iterator[Direction]:
    """The iterates x, not divided by the scale; raises `Diverged` where one is out of bounds."""
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
        yield x


def _residual(
    product: Product, gradient: Direction, solution: Direction, damping: float, draws: range
) -> tuple[float, float]:
    """The residual and its resolution, as in `LissaResult`."""
    mean = {name: torch.zeros_like(part) for name, part in gradient.items()}
    squares = 0.0
    for draw in draws:
        left = _left(gradient, solution, product(draw, solution), damping)
        squares += _dot(left, left) / len(draws)
        _add(mean, left, 1 / len(draws))
    length = _dot(mean, mean)
    if not math.isfinite(squares):
        return math.nan, math.nan
    # The squared length of the draws' mean is too long by its variance.
    variance = max(0.0, squares - length) / (len(draws) - 1)
    size = _norm(gradient)
    return math.sqrt(max(0.0, length - variance)) / size, math.sqrt(variance) / size


def _left(
    gradient: Direction, solution: Direction, curved: Direction, damping: float
) -> dict[str, Tensor]:
    """`v - (B_t + λ) x`."""
    return {
        name: torch.sub(part, solution[name], alpha=damping).sub_(curved[name].to(part.dtype))
        for name, part in gradient.items()
    }


def _curvature_along(product: Product, direction: Direction, draws: range) -> float:
    """`d·B d / ‖d‖²` over some draws."""
    dots = [_dot(direction, product(draw, direction)) for draw in draws]
    return _quotient(sum(dots) / len(dots), _dot(direction, direction))


def _quotient(numerator: float, denominator: float) -> float:
    """The quotient, where 0/0 is 0: along no direction there is no curvature."""
    return numerator / (denominator or 1.0)


def _add(total: Direction, part: Direction, factor: float) -> None:
    for name, sum_ in total.items():
        sum_.add_(part[name], alpha=factor)


def _dot(left: Direction, right: Direction) -> float:
    """Inner product over all parameters, formed in float64."""
    parts = [(part.double() * right[name].double()).sum() for name, part in left.items()]
    return float(torch.stack(parts).sum())


def _norm(vector: Direction) -> float:
    return math.sqrt(_dot(vector, vector))
