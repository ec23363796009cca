"""Inverse-Hessian-vector products by LiSSA, a stochastic Neumann series.

`(B + λ)⁻¹ v` is the limit of `x_{t+1} = v + x_t - (B_t + λ) x_t / σ`, divided by σ, where the
sample B_t (the curvature of a mini-batch of records) has the mean B (Agarwal et al. 2017; Koh and
Liang 2017; Liu and Yang 2024, eq. 4). It converges where every eigenvalue of B + λ lies between 0
and 2σ, and is otherwise worthless: a series that is seen not to converge raises `Diverged`.

With a positive semi-definite B and σ no less than its largest eigenvalue plus λ, t steps leave at
most `(1 - λ/σ)^(t + 1)` of v unsolved, besides the noise of the samples. More steps do not lessen
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
"""The curvature of sample number i times a vector: a function of both alone."""

RELATIVE_DAMPING = 0.01
"""Default λ over the largest eigenvalue of the sampled curvatures."""

DEPTH = 500
"""Default steps: with the default damping and scale the series is cut off at 2 % of v."""

TAIL = 4
"""The solution is the mean of the last 1/TAIL of the iterates."""

SAFETY = 1.1
"""Default σ over the largest sampled eigenvalue plus λ; the series bears a factor of 2."""

EIGENVALUE_SAMPLES = 8
RESIDUAL_SAMPLES = 16
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
        rayleigh_quotient: `d·(B_t + λ)d / ‖d‖²`, the damped curvature along the direction d in
            which x grew: below 0 it shows curvature below -λ, above 2σ a too small σ.
        scale: σ.
    """

    def __init__(self, step: int, growth: float, rayleigh_quotient: float, scale: float) -> None:
        super().__init__(
            f"the Neumann series diverged by step {step}, to {growth:.3g} times its start"
        )
        self.step, self.growth, self.scale = step, growth, scale
        self.rayleigh_quotient = rayleigh_quotient

    @property
    def negative_curvature(self) -> bool:
        """The curvature has eigenvalues below -λ: no scale helps, a larger damping does."""
        return self.rayleigh_quotient < -NO_CURVATURE * self.scale

    @property
    def scale_too_small(self) -> bool:
        """A sample's largest eigenvalue plus λ is above 2σ: a larger scale helps."""
        return self.rayleigh_quotient > 2 * self.scale


@dataclass(frozen=True)
class LissaResult:
    """A solution of `(B + λ) x = v` and its residual.

    Attributes:
        solution: x by parameter name, in at least float32.
        residual: ‖v - (B + λ) x‖ / ‖v‖, estimated by samples without bias (of its square).
        resolution: standard deviation of the mean of these samples, in the same unit: a residual
            below it cannot be distinguished from zero.
        damping: λ.
        scale: σ.
        depth, repeats: steps of each series, and the number of series.
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
        """Upper bound of the residual of the finite series, before the noise of the samples.

        It holds where the curvature has no eigenvalue below 0 or above `σ - λ`.
        """
        steps = range(self.depth - _tail(self.depth) + 1, self.depth + 1)
        return sum(abs(1 - self.damping / self.scale) ** (t + 1) for t in steps) / len(steps)


def largest_eigenvalue(
    product: Callable[[Direction], Direction],
    start: Direction,
    iterations: int = 20,
    tolerance: float = 0.02,
) -> float:
    """The largest absolute eigenvalue of a symmetric matrix by power iteration, from below.

    Args:
        product: the matrix times a vector.
        start: any vector, not zero; preferably a random one (`random_direction`).
        tolerance: relative increase of an iteration at which to stop.
    """
    eigenvalue = 0.0
    vector = start
    for _ in range(iterations):
        norm = _norm(vector)
        if norm == 0 or not math.isfinite(norm):
            break
        vector = product({name: value / norm for name, value in vector.items()})
        previous, eigenvalue = eigenvalue, _norm(vector)
        # The first product of a random vector is small: hardly any of it is in the range.
        if previous > 0 and eigenvalue <= previous * (1 + tolerance):
            break
    return eigenvalue


def random_direction(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Standard normal numbers in the shapes of `like`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator).to(widened(value))
        for name, value in like.items()
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

    Samples 0 to `repeats · depth - 1` make the series; the next ones give its residual.

    Args:
        product: the samples, each symmetric, of mean B.
        gradient: v.
        damping: λ, not negative.
        scale: σ, positive.

    Raises:
        Diverged: the series has left the bounds of a convergent one, its residual is not below 1,
            or it grows along negative curvature.
        ValueError: a setting out of its range.
    """
    if not (damping >= 0 and scale > 0 and depth > 0 and repeats > 0):
        raise ValueError("damping >= 0, scale > 0, depth > 0 and repeats > 0 are needed")
    start = {name: widened(value) for name, value in gradient.items()}
    solution = {name: torch.zeros_like(value) for name, value in start.items()}
    if _norm(start) == 0:
        return LissaResult(solution, 0.0, 0.0, damping, scale, depth, repeats)
    drift = {name: torch.zeros_like(value) for name, value in start.items()}
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
    checks = range(steps, steps + RESIDUAL_SAMPLES)
    residual, resolution = _residual(product, start, solution, damping, checks)
    quotient = _rayleigh_quotient(product, drift, checks) + damping
    failure = Diverged(depth, math.hypot(residual, resolution), quotient, scale)
    # x = 0 has the residual 1. The drift of x in the second half lies along the slowest directions:
    # with negative curvature it goes on for ever, however small the residual still is.
    if not (failure.growth < 1 and quotient >= -NO_CURVATURE * scale):
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
    """`inverse_product` with a damping and scale relative to the largest sampled eigenvalue.

    The scale is doubled a few times where the series shows that it is too small.

    Args:
        damping: λ; `RELATIVE_DAMPING` times the eigenvalue when None.
        scale: σ; `SAFETY` times the eigenvalue plus λ when None, and then doubled if needed.
        seed: of the power iterations' start.
        largest: the largest sampled eigenvalue, where it is known already.

    Raises:
        Diverged, ValueError: as `inverse_product`.
        ValueError: no damping given, and the sampled curvature is zero.
    """
    doublings = DOUBLINGS if scale is None else 0
    if damping is None or scale is None:
        if largest is None:
            largest = largest_sampled_eigenvalue(product, gradient, seed)
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


def largest_sampled_eigenvalue(product: Product, like: Direction, seed: int = 0) -> float:
    """The largest eigenvalue of `EIGENVALUE_SAMPLES` samples, each by power iteration.

    Damping and scale are relative to it.

    Args:
        like: any vector in the parameters' shapes.
        seed: of the power iterations' start.

    Raises:
        Diverged: it is not finite.
    """
    start = random_direction(like, seed)
    samples = range(EIGENVALUE_SAMPLES)
    eigenvalues = [largest_eigenvalue(partial(product, n), start) for n in samples]
    if not all(map(math.isfinite, eigenvalues)):
        raise Diverged(0, math.nan, math.nan, math.nan)
    return max(eigenvalues)


def _tail(depth: int) -> int:
    """Number of the last iterates whose mean is the solution."""
    return max(1, depth // TAIL)


def _iterates(
    product: Product, start: Direction, damping: float, scale: float, samples: range
) -> Iterator[Direction]:
    """The iterates x, not divided by the scale; raises `Diverged` where one is out of bounds."""
    bound = _norm(start)
    x = start
    for step, sample in enumerate(samples, 1):
        curved = product(sample, x)
        # Out of place: a product may return its argument.
        following = {
            name: torch.add(value, x[name], alpha=1 - damping / scale).sub_(
                curved[name].to(value.dtype), alpha=1 / scale
            )
            for name, value in start.items()
        }
        norm = _norm(following)
        # Each step adds no more than ‖v‖ where ‖1 - (B_t + λ)/σ‖ <= 1.
        if not norm <= (step + 1) * bound * (1 + ROUNDING):
            quotient = _quotient(_dot(x, curved), _dot(x, x)) + damping
            raise Diverged(step, norm / bound, quotient, scale)
        x = following
        yield x


def _residual(
    product: Product, gradient: Direction, solution: Direction, damping: float, samples: range
) -> tuple[float, float]:
    """The residual and its resolution, as in `LissaResult`."""
    mean = {name: torch.zeros_like(value) for name, value in gradient.items()}
    mean_square = 0.0
    for sample in samples:
        residual = _residual_vector(gradient, solution, product(sample, solution), damping)
        mean_square += _dot(residual, residual) / len(samples)
        _add(mean, residual, 1 / len(samples))
    square = _dot(mean, mean)
    if not math.isfinite(mean_square):
        return math.nan, math.nan
    # The squared norm of the samples' mean is too large by its variance.
    variance = max(0.0, mean_square - square) / (len(samples) - 1)
    size = _norm(gradient)
    return math.sqrt(max(0.0, square - variance)) / size, math.sqrt(variance) / size


def _residual_vector(
    gradient: Direction, solution: Direction, curved: Direction, damping: float
) -> dict[str, Tensor]:
    """`v - (B_t + λ) x`."""
    return {
        name: torch.sub(value, solution[name], alpha=damping).sub_(curved[name].to(value.dtype))
        for name, value in gradient.items()
    }


def _rayleigh_quotient(product: Product, direction: Direction, samples: range) -> float:
    """`d·B d / ‖d‖²`, the mean over samples."""
    dots = [_dot(direction, product(sample, direction)) for sample in samples]
    return _quotient(sum(dots) / len(dots), _dot(direction, direction))


def _quotient(numerator: float, denominator: float) -> float:
    """The quotient, where 0/0 is 0: along no direction there is no curvature."""
    return numerator / (denominator or 1.0)


def _add(total: Direction, term: Direction, factor: float) -> None:
    for name, sum_ in total.items():
        sum_.add_(term[name], alpha=factor)


def _dot(left: Direction, right: Direction) -> float:
    """Inner product over all parameters, formed in float64."""
    dots = [(value.double() * right[name].double()).sum() for name, value in left.items()]
    return float(torch.stack(dots).sum())


def _norm(vector: Direction) -> float:
    return math.sqrt(_dot(vector, vector))
