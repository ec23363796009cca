"""Several answers to one prompt: each distinct value, or answer, once, and how often it is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from haiftrace.errors import NoAnswerError
from haiftrace.findings import Frequency
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import Query, generated_query, sampled_queries
from haiftrace.query.sampling import Sampling
from haiftrace.tracing.tracer import Tracer

Part = TypeVar("Part")


@dataclass(frozen=True)
class Answers:
    """The greedy answer and the drawn ones; None for each that says nothing."""

    greedy: Query | None
    drawn: Sequence[Query | None]
    sampling: Sampling | None


@dataclass(frozen=True)
class Said(Generic[Part]):
    """A part of an answer, such as a private value.

    Attributes:
        query: the first answer that says it, the greedy one where that does.
        frequency: None where no answers were drawn.
    """

    query: Query
    part: Part
    frequency: Frequency | None


def answers(tracer: Tracer, prompt: str, prompting: PromptSettings) -> Answers:
    """What the checkpoint answers.

    Raises:
        UsageError: the prompt cannot be asked.
    """
    try:
        greedy = generated_query(tracer.checkpoint, prompt, prompting, None)
    except NoAnswerError:
        greedy = None
    drawn = sampled_queries(tracer.checkpoint, prompt, prompting)
    return Answers(greedy, drawn, prompting.sampling)


def distinct(
    answered: Answers, parts: Callable[[Query], Sequence[tuple[str, Part]]]
) -> list[Said[Part]]:
    """Each distinct part of the answers once: the greedy answer's first, then by how often.

    Args:
        parts: of an answer, each with the key that makes it distinct.
    """
    first: dict[str, tuple[Query, Part]] = {}
    counts: Counter[str] = Counter()
    by_greedy: set[str] = set()
    for number, query in enumerate((answered.greedy, *answered.drawn)):
        if query is None:
            continue
        keys = set()
        for key, part in parts(query):
            first.setdefault(key, (query, part))
            keys.add(key)
        if number:
            counts.update(keys)
        else:
            by_greedy = keys
    sampling = answered.sampling
    if sampling is None:
        return [Said(query, part, None) for query, part in first.values()]
    drawn, temperature = len(answered.drawn), sampling.temperature
    ordered = sorted(first, key=lambda key: (key not in by_greedy, -counts[key]))
    return [
        Said(*first[key], Frequency(drawn, counts[key], key in by_greedy, temperature))
        for key in ordered
    ]
