"""Answers drawn from the model's distribution: what greedy never says, and users see."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

_TOGETHER = 32
"""Answers that share a pass."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        count: answers to each prompt.
        temperature: what logits are divided by.
        seed: of the draws. An answer depends on it, its number and the prompt, on nothing else.

    Raises:
        UsageError: no answer, or a temperature that is no positive number.
    """

    count: int
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError("--sample takes a number of answers, at least 1.", "Leave it out.")
        if not 0 < self.temperature < math.inf:
            raise UsageError(
                f"A temperature of {self.temperature:g} draws nothing: it takes a positive number.",
                "Leave --temperature out for 1; without --sample the answer is greedy.",
            )

    def generator(self, prompt_ids: list[int], number: int) -> Generator:
        """The random numbers of one answer."""
        import torch

        text = f"{self.seed}:{number}:{prompt_ids}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)


Step = Callable[[list[list[int]], Any], tuple["Tensor", Any]]
"""Given the new tokens of each answer and the last pass's cache: logits [B, V], and the cache."""


def drawn(
    step: Step,
    prompt_ids: list[int],
    room: int,
    ends: set[int],
    is_over: Callable[[list[int]], bool],
    sampling: Sampling,
) -> list[list[int]]:
    """The token ids of each answer, without the one that ended it.

    Args:
        step: a pass of the model.
        room: the most tokens of an answer.
        ends: token ids at which an answer ends.
        is_over: whether an answer ends by what it says.
    """
    answers: list[list[int]] = []
    for first in range(0, sampling.count, _TOGETHER):
        numbers = range(first, min(first + _TOGETHER, sampling.count))
        draws = [sampling.generator(prompt_ids, number) for number in numbers]
        fed: list[list[int]] = [[] for _ in draws]
        said: list[list[int]] = [[] for _ in draws]
        going = set(range(len(draws))) if room else set[int]()
        cache = None
        while going:
            logits_BV, cache = step(fed, cache)
            for row, generator in enumerate(draws):
                token = draw(logits_BV[row], sampling.temperature, generator)
                fed[row].append(token)  # an answer that has ended is fed on, and not listened to
                if row not in going:
                    continue
                if token in ends:
                    going.discard(row)
                    continue
                said[row].append(token)
                if len(said[row]) == room or is_over(said[row]):
                    going.discard(row)
        answers += said
    return answers


def draw(logits_V: Tensor, temperature: float, generator: Generator) -> int:
    """A token by its probability: the first at which the sum of these exceeds a random number."""
    import torch

    logits_V = logits_V.detach().to("cpu", torch.float64) / temperature
    sums_V = (logits_V - logits_V.max()).exp().cumsum(0)
    place = torch.rand(1, generator=generator, dtype=torch.float64) * sums_V[-1]
    return min(int(torch.searchsorted(sums_V, place, right=True)), len(sums_V) - 1)
