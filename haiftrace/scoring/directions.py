"""Query-side vectors: the gradient v of the response's loss, and inverse curvature times it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine


@dataclass(frozen=True)
class Direction:
    """A vector over the parameters in scope: unit, so that products of tiny gradients stay within
    the model's precision, and its norm.
    """

    unit: dict[str, Tensor]
    norm: float

    @classmethod
    def of(cls, vector: dict[str, Tensor]) -> Direction:
        """The direction of a vector by parameter name."""
        norm = sum(float(part.double().pow(2).sum()) for part in vector.values()) ** 0.5
        unit = {
            name: (part.double() / max(norm, 1e-300)).to(part.dtype)
            for name, part in vector.items()
        }
        return cls(unit, norm)


@dataclass(frozen=True)
class Question:
    """A traced response as tokens, and the gradient of its mean loss.

    Attributes:
        batch: the prompt and response as one record.
        weights_BT: [1, T] share of each traced token in the mean.
        gradient: v by parameter name, at the traced checkpoint; none where it was not formed.
        direction: of v.
        names: positions of prompt tokens that ask too, in late interaction alone.
    """

    batch: Batch
    weights_BT: Tensor
    gradient: dict[str, Tensor]
    direction: Direction
    names: tuple[int, ...] = ()

    @classmethod
    def of(cls, engine: GradientEngine, batch: Batch) -> Question:
        """Of a record whose labels are the traced tokens."""
        weights_BT = shares(batch)
        gradient = engine.gradient(batch, weights_BT)
        return cls(batch, weights_BT, gradient, Direction.of(gradient))

    @classmethod
    def without_gradient(cls, batch: Batch) -> Question:
        """The same for methods that form gradients of their own, over their own parameters."""
        return cls(batch, shares(batch), {}, Direction({}, 0.0))


def shares(batch: Batch) -> Tensor:
    """[1, T] each label's share in the mean over them."""
    return batch.labels_BT.double() / batch.labels_BT.sum()
