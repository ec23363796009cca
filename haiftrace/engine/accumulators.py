"""What gradients are reduced to, and the leaves that the reductions are accumulated in.

A reduction of a gradient is its squared norm, its projection or its inner products with query
gradients. Reductions are sums over parameters, so that each parameter's gradient can be dropped as
soon as it is reduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from haiftrace.engine.projection import Projector
from haiftrace.engine.reductions import MatrixReduction, Reduction


class Metric(Protocol):
    """A linear map M of gradients whose norm ‖M G‖ replaces ‖G‖ (see `curvature`)."""

    def squared_norm(self, reductions: Sequence[Reduction], delta: Tensor) -> Tensor:
        """‖M G‖², [..., B] in float64, of the joint gradient of one call's parameters.

        Args:
            reductions: of the parameters of one call, whose output has the gradient `delta`.
        """
        ...

    def apply(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """M G of the gradient over all parameters, by parameter name."""
        ...


@dataclass(frozen=True)
class ReductionSpec:
    """What to reduce gradients to: squared norms always; projections and dots where given.

    Attributes:
        projector: to have projections.
        queries: query gradients [Q, *parameter] by parameter name, to have dots with them.
        few_weightings: there are far fewer weightings than tokens, so that to form a matrix
            gradient once and multiply it with every query costs less than to multiply every token's
            input with every query.
        metric: to have ‖M G‖ for the norms; projections and dots stay those of G.
    """

    projector: Projector | None = None
    queries: Mapping[str, Tensor] | None = None
    few_weightings: bool = False
    metric: Metric | None = None


class Reducer(Protocol):
    """Receives the gradients from the taps; its leaves receive what it returns."""

    leaves: list[Tensor]

    def reduce(self, reductions: Sequence[Reduction], delta: Tensor) -> list[Tensor]:
        """The reduced gradients of one call, in the order of the leaves.

        Args:
            reductions: of the call's parameters, which share the output gradient `delta`.
        """
        ...


class Accumulators:
    """Leaves whose "gradients" are the reductions, one row a record of the batch.

    Args:
        batch: B.
        dtype: of the projections; norms and dots are float64.
    """

    def __init__(
        self, batch: int, spec: ReductionSpec, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.spec = spec
        self.leaves = [torch.zeros(batch, dtype=torch.float64, device=device, requires_grad=True)]
        if spec.projector is not None:
            shape = (batch, spec.projector.dimension)
            self.leaves.append(torch.zeros(shape, dtype=dtype, device=device, requires_grad=True))
        if spec.queries is not None:
            count = next(iter(spec.queries.values())).shape[0]
            zeros = torch.zeros(batch, count, dtype=torch.float64, device=device)
            self.leaves.append(zeros.requires_grad_())

    def reduce(self, reductions: Sequence[Reduction], delta: Tensor) -> list[Tensor]:
        """The reduced gradients of one call, in the order of the leaves."""
        each = [self._reduce(reduction, delta) for reduction in reductions]
        total = [sum(terms[1:], start=terms[0]) for terms in zip(*each, strict=True)]
        if self.spec.metric is not None:
            total[0] = self.spec.metric.squared_norm(reductions, delta)
        return total

    def _reduce(self, reduction: Reduction, delta: Tensor) -> list[Tensor]:
        has_metric = self.spec.metric is not None
        reduced = [self.leaves[0].detach() if has_metric else reduction.squared_norm(delta)]
        if self.spec.projector is not None:
            projection = reduction.projection(delta, self.spec.projector)
            reduced.append(projection.to(self.leaves[1].dtype))
        if self.spec.queries is not None:
            queries = self.spec.queries[reduction.name]
            if self.spec.few_weightings and isinstance(reduction, MatrixReduction):
                reduced.append(reduction.formed_dots(delta, queries))
            else:
                reduced.append(reduction.dots(delta, queries))
        return reduced
