"""Query-side vectors: the gradient v of the response's loss, and inverse curvature times it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from haiftrace.methods import GradientMethod, LayerwiseMethod, Method
from haiftrace.methods.families import inverse

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
    """A traced response as tokens, and the gradient of its mean loss, once that is asked for.

    Attributes:
        batch: the prompt and response as one record.
        engine: gives one over the parameters of the gradient, once that is asked for.
    """

    batch: Batch
    engine: Callable[[], GradientEngine]

    @cached_property
    def weights_BT(self) -> Tensor:
        """[1, T] share of each traced token in the mean."""
        return shares(self.batch)

    @cached_property
    def gradient(self) -> dict[str, Tensor]:
        """V by parameter name, at the traced checkpoint."""
        return self.engine().gradient(self.batch, self.weights_BT)

    @cached_property
    def direction(self) -> Direction:
        """That of v."""
        return Direction.of(self.gradient)

    def passing(self) -> Question:
        """The same question, whose gradient is not kept here: it goes with what is returned."""
        return self if "gradient" in vars(self) else replace(self)


def shares(batch: Batch) -> Tensor:
    """[1, T] each label's share in the mean over them."""
    return batch.labels_BT.double() / batch.labels_BT.sum()


def over_query_norm(method: Method, question: Question) -> float:
    """What a score is multiplied with to be one over ‖v‖, comparable between questions."""
    if isinstance(method, LayerwiseMethod):  # made of z-scores
        return 1.0
    if isinstance(method, GradientMethod) and method.over_query_norm:
        return 1.0
    return inverse(question.direction.norm)
