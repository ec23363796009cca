"""The query directions of late interaction: which gradients of a question meet a record's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.methods.families import LateMethod
from haiftrace.scoring.directions import Question, shares, units

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.engine import Batch, GradientEngine


@dataclass(frozen=True)
class Side:
    """A query direction: the gradient of a question's losses under weights [1, T]."""

    batch: Batch
    weights_BT: Tensor

    @property
    def of_one_token(self) -> bool:
        """Whether a single token has weight, so that the direction is that of its gradient."""
        return int(self.weights_BT.count_nonzero()) == 1

    @property
    def asks(self) -> tuple[tuple[int, ...], tuple[tuple[int, float], ...]]:
        """The tokens up to the last that has a weight, and the weights by position.

        Sides that agree in these have the same gradient, whatever stands behind: the model is
        causal.
        """
        weights = enumerate(self.weights_BT[0].tolist())
        weighted = tuple((place, weight) for place, weight in weights if weight)
        last = max(place for place, _ in weighted)
        return tuple(self.batch.ids_BT[0, : last + 1].tolist()), weighted


def distinct(sides: Sequence[Side]) -> tuple[list[Side], np.ndarray]:
    """The sides that differ in what they ask, and where each of all sides stands among them."""
    places: dict[object, int] = {}
    kept: list[Side] = []
    at = np.zeros(len(sides), dtype=np.int64)
    for number, side in enumerate(sides):
        at[number] = places.setdefault(side.asks, len(kept))
        if at[number] == len(kept):
            kept.append(side)
    return kept, at


def sides_of(method: LateMethod, question: Question) -> list[Side]:
    """The directions that a method asks with: each traced token's own, or that of the mean.

    The name's tokens ask like those of the answer, by the loss of the prompt's own token.
    """
    batch = asking_batch(question)
    mean_BT = shares(batch)
    return [
        Side(batch, mean_BT if place is None else _one_hot(mean_BT, place))
        for place in places_of(method, question)
    ]


def places_of(method: LateMethod, question: Question) -> list[int | None]:
    """The query position of each direction; None for that of the mean over all, which is last."""
    import torch

    tokens = torch.nonzero(asking_labels(question)[0]).flatten().tolist()
    return [*(tokens if method.by_token else ()), *([None] if method.asks_as_one else ())]


def asking_batch(question: Question) -> Batch:
    """The question with the tokens that ask for labels."""
    return replace(question.batch, labels_BT=asking_labels(question))


def asking_labels(question: Question) -> Tensor:
    """[1, T] True at the tokens that ask: those of the answer, and of the name where it does."""
    labels_BT = question.batch.labels_BT.clone()
    labels_BT[0, list(question.names)] = True
    return labels_BT


def unit_directions(engine: GradientEngine, sides: Sequence[Side]) -> dict[str, Tensor]:
    """[S, *parameter] by parameter name: unit gradients over the engine's parameters."""
    import torch

    stacked, at = engine.room_for(len(sides)), 0
    for _, some in groupby(sides, key=lambda side: id(side.batch)):
        of_batch = list(some)
        weights_SBT = torch.stack([side.weights_BT for side in of_batch])
        here = slice(at, at + len(of_batch))
        into = {name: whole[here] for name, whole in stacked.items()}
        engine.fill_gradients(of_batch[0].batch, weights_SBT, into)
        at += len(of_batch)
    return units(stacked)


def _one_hot(like_BT: Tensor, place: int) -> Tensor:
    weights_BT = like_BT.new_zeros(like_BT.shape)
    weights_BT[0, place] = 1.0
    return weights_BT
