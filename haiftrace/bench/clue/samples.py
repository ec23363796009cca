"""The CLUE experiment's data: samples of running text, and excerpts of them to trace (Figure 2).

The corpus is tokenised and concatenated, and cut into n samples of m tokens; a model is trained on
the samples. A test is an excerpt of a sample, tokens offset … offset + length, and the sample is
the record that tracing should find.

An index reads its records as text. A run of tokens is not always what its own text is tokenised to
(a cut may split a word, or a character's bytes), so a sample begins at the next token from which it
is: the model is then trained on the very tokens that the index holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from haiftrace.bench.clue.corpus import Document
from haiftrace.errors import CorpusError, UsageError

Tokenise = Callable[[str], Sequence[int]]
"""Token ids of a text, without special tokens."""

Keeps = Callable[[Sequence[int]], bool]
"""Whether a run of tokens is what its own text is tokenised to."""

SHORTEST_TEST = 2
"""Tokens of the shortest test: the first token has nothing before it, so it is no label."""


@dataclass(frozen=True)
class Sample:
    """One training record.

    Attributes:
        number: i, from 0.
        token_ids: its m tokens.
        path: file of the document with its first token.
        line: the line on which that document begins.
    """

    number: int
    token_ids: tuple[int, ...]
    path: str
    line: int


@dataclass(frozen=True)
class Cut:
    """Which tokens of a sample are the test: offset … offset + length, the end excluded."""

    offset: int
    length: int

    def of(self, sample: Sample) -> tuple[int, ...]:
        """The test's tokens."""
        end = self.offset + self.length
        assert 0 <= self.offset < end <= len(sample.token_ids)
        return sample.token_ids[self.offset : end]


@dataclass(frozen=True)
class Sweep:
    """One panel of Figure 2.

    Attributes:
        panel: "a" (length at offset 0), "b" (length at another offset), "c" (offset).
        varied: what changes from cut to cut.
        fixed: the value of the other.
        cuts: in the order of what changes.
    """

    panel: Literal["a", "b", "c"]
    varied: Literal["length", "offset"]
    fixed: int
    cuts: tuple[Cut, ...]


def cut_samples(
    documents: Iterable[Document],
    tokenise: Tokenise,
    count: int = 100,
    length: int = 256,
    keeps: Keeps = lambda _: True,
) -> list[Sample]:
    """The first `count` samples of `length` tokens of the concatenated documents.

    A document that came before, word for word, is left out: of two equal samples either would be
    the right answer. No more documents are read than needed.

    Args:
        keeps: a run that it refuses is no sample: the next token is tried, and one is lost.

    Raises:
        CorpusError: too little text, or two samples with the same tokens.
        UsageError: a count below 1, or a length too short for a test.
    """
    if count < 1 or length < SHORTEST_TEST:
        raise UsageError(
            f"{count} samples of {length} tokens make no experiment.",
            f"Use --samples 1 or more and --length {SHORTEST_TEST} or more.",
        )
    samples: list[Sample] = []
    for token_ids, origin in _blocks(documents, tokenise, length, keeps):
        samples.append(Sample(len(samples), token_ids, origin.path, origin.line))
        if len(samples) == count:
            break
    if len(samples) < count:
        raise CorpusError(
            f"The corpus gives {len(samples)} samples of {length} tokens, and {count} are wanted.",
            f"Add text, or use --samples {len(samples)}."
            if samples
            else "Add text, or use a smaller --length.",
        )
    if len({sample.token_ids for sample in samples}) < count:
        raise CorpusError(
            "Two samples have the same tokens, so a finding could not say which of them it means.",
            "Take repeated text out of the corpus, or use a larger --length.",
        )
    return samples


def plan_sweeps(
    length: int = 256,
    *,
    fixed_offset: int | None = None,
    fixed_length: int | None = None,
    points: int = 8,
) -> tuple[Sweep, Sweep, Sweep]:
    """The three sweeps of Figure 2 over samples of `length` tokens.

    Args:
        length: m.
        fixed_offset: the offset of panel b; half a sample by default.
        fixed_length: the length of panel c; an eighth of a sample by default.
        points: offsets in panel c. The lengths of a and b double, from 2 tokens to all there are.

    Raises:
        UsageError: a test that would not fit into a sample.
    """
    offset = length // 2 if fixed_offset is None else fixed_offset
    test = max(SHORTEST_TEST, length // 8) if fixed_length is None else fixed_length
    if not 0 < offset <= length - SHORTEST_TEST or not SHORTEST_TEST <= test <= length:
        raise UsageError(
            f"Tests at offset {offset} and of {test} tokens do not fit samples of {length} tokens.",
            f"Use an offset from 1 to {length - SHORTEST_TEST} and a length from {SHORTEST_TEST}"
            f" to {length}.",
        )
    return (
        Sweep("a", "length", 0, tuple(Cut(0, n) for n in _doubling(length))),
        Sweep("b", "length", offset, tuple(Cut(offset, n) for n in _doubling(length - offset))),
        Sweep("c", "offset", test, tuple(Cut(o, test) for o in _spread(length - test, points))),
    )


def _blocks(
    documents: Iterable[Document], tokenise: Tokenise, length: int, keeps: Keeps
) -> Iterable[tuple[tuple[int, ...], Document]]:
    """Runs of `length` tokens, each with the document of its first token; a rest is dropped."""
    seen: set[str] = set()
    pending: list[int] = []
    origins: deque[tuple[int, Document]] = deque()  # where in `pending` each document begins
    for document in documents:
        if document.text in seen:
            continue
        seen.add(document.text)
        origins.append((len(pending), document))
        pending += tokenise(document.text)
        start = 0
        while len(pending) - start >= length:
            block = tuple(pending[start : start + length])
            if not keeps(block):
                start += 1
                continue
            yield block, _origin(origins, start)
            start += length
        pending = pending[start:]
        _origin(origins, start)
        origins = deque((place - start, whose) for place, whose in origins)


def _origin(origins: deque[tuple[int, Document]], start: int) -> Document:
    """The document that a token belongs to; those that end before it are forgotten."""
    while len(origins) > 1 and origins[1][0] <= start:
        origins.popleft()
    return origins[0][1]


def _doubling(longest: int) -> list[int]:
    """2, 4, 8 … below `longest`, and `longest` itself."""
    lengths = [SHORTEST_TEST]
    while 2 * lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return sorted({*lengths, longest})


def _spread(last: int, points: int) -> list[int]:
    """`points` integers from 0 to `last`, evenly spread, none twice."""
    steps = max(1, points - 1)
    return sorted({round(last * step / steps) for step in range(steps + 1)})
