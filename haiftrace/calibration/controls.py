"""Control queries: spans of indexed records, traced with what stands before them.

A control is a query whose source is known. Each has one span, of a few response lengths in turn:
with spans of every length, one odd place would be an extreme sample at all of them. A span that
many records hold says nothing of one of them, and leaving them all out would leave another corpus
behind, so such spans are not sampled. Records that hold a pair of its tokens which few do taught
it too: where its source is to be missing, so are they.

Before the span stands only the sentence that it is in. A question does not repeat the whole record
either, and with all of it the source would be found by its own context alone.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from haiftrace.store import Index, StoredWindow

LENGTHS = (1, 2, 3, 5, 8, 12)
"""Tokens of the spans: as many as private values have."""

FIRST_TOKENS = 4
"""Tokens at a window's beginning that no span covers: too little stands before them."""
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+|[。！？][”’」』]*|\n+")
COMMON_SHARE = 0.1
COMMON_RECORDS = 1000
"""A span in more than this share, or this number, of the records is common, and not sampled."""
CONTROLS_A_WINDOW = 4
"""Most controls of one window, so that a small corpus has fewer."""
_TRIES = 6


@dataclass(frozen=True)
class Control:
    """One control query.

    Attributes:
        number: its own.
        row, record: the window that it was taken from, and its record.
        token_ids: those of the window from the context's beginning to the span's end.
        length: tokens of the span, which are the last ones.
        containing: [n] numbers of all records that hold the span, its own among them.
        sharing: [n] numbers of these and of all records that hold a pair of its tokens which few
            do: they taught it too, and are left out with the source.
    """

    number: int
    row: int
    record: int
    token_ids: tuple[int, ...]
    length: int
    containing: np.ndarray
    sharing: np.ndarray

    @property
    def span(self) -> tuple[int, ...]:
        """The tokens that are traced."""
        return self.token_ids[-self.length :]


def sample_controls(index: Index, count: int, seed: int) -> list[Control]:
    """Controls over the whole index, the same for the same seed, by number.

    Args:
        count: how many; fewer where the corpus is small, or its windows are too short.
    """
    rng = np.random.default_rng([seed, 6])
    count = min(count, CONTROLS_A_WINDOW * len(index))
    turns = [rng.permutation(len(index)) for _ in range(-(-count // len(index)))]
    rows = np.concatenate(turns)[:count].tolist() if turns else []
    windows = {w.row: w for w in index.iter_windows(sorted(set(rows)))}
    tries: list[tuple[int, int, list[tuple[int, ...]]]] = []
    for number, row in enumerate(rows):
        window = windows[row]
        shorter = LENGTHS[: number % len(LENGTHS) + 1]
        fitting = [length for length in shorter if len(possible_starts(window, length))]
        if not fitting:
            continue
        length = fitting[-1]
        chosen = rng.permutation(possible_starts(window, length))[:_TRIES].tolist()
        ends = [
            tuple(window.token_ids[context_start(window, start) : start + length])
            for start in chosen
        ]
        tries.append((number, length, ends))
    spans = {ids[-length:] for _, length, ends in tries for ids in ends}
    limit = max(1, min(COMMON_RECORDS, int(COMMON_SHARE * index.manifest.totals.records)))
    held = records_holding(index, spans, limit)
    chosen_spans = []
    for number, length, ends in tries:
        for ids in ends:
            containing = held[ids[-length:]]
            if containing is not None:
                chosen_spans.append((number, ids, length, containing))
                break
    pairs = {pair for _, ids, length, _ in chosen_spans for pair in token_pairs(ids, length)}
    rare = records_holding(index, pairs, limit)
    controls = []
    for number, ids, length, containing in chosen_spans:
        of_pairs = (rare[pair] for pair in token_pairs(ids, length))
        sharing = np.unique(np.concatenate([containing, *(r for r in of_pairs if r is not None)]))
        row = rows[number]
        record = windows[row].record
        controls.append(Control(number, row, record, ids, length, containing, sharing))
    return controls


def token_pairs(token_ids: tuple[int, ...], length: int) -> list[tuple[int, ...]]:
    """Each of the last so many tokens, with the one before."""
    return list(pairwise(token_ids[-length - 1 :]))


def possible_starts(window: StoredWindow, length: int) -> np.ndarray:
    """Places in a window where a span of labels of this length can begin."""
    labels = np.asarray(window.labels, dtype=np.int64)
    first = min(FIRST_TOKENS, max(1, len(labels) // 4))
    if first + length > len(labels):
        return np.zeros(0, dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(labels)])
    starts = np.arange(first, len(labels) - length + 1)
    return starts[before[starts + length] - before[starts] == length]


def context_start(window: StoredWindow, span: int) -> int:
    """The token that the context of a span begins with: the first of its sentence.

    Of a sentence that gives too little, the one before belongs to it too.

    Args:
        span: the token that the span begins with.
    """
    here = window.offsets[span][0]
    latest = max(0, span - min(FIRST_TOKENS, span))
    begins = [0, *(end.end() for end in _SENTENCE_END.finditer(window.text, 0, here))]
    for begin in reversed(begins):
        first = next((i for i, (_, end) in enumerate(window.offsets) if end > begin), span)
        if first <= latest:
            return first
    return 0


def records_holding(
    index: Index, spans: set[tuple[int, ...]], limit: int
) -> dict[tuple[int, ...], np.ndarray | None]:
    """The numbers of the records that hold each span; None for one that more than `limit` hold.

    Reads every window once. A span is looked for within windows: they overlap by half.
    """
    by_length: dict[int, dict[int, tuple[int, ...]]] = defaultdict(dict)
    multipliers = np.random.default_rng(0).integers(1, 1 << 63, size=1 << 16, dtype=np.uint64) | 1
    for span in spans:
        by_length[len(span)][_hashes(span, len(span), multipliers)[0]] = span
    wanted = {length: np.array(sorted(known), np.uint64) for length, known in by_length.items()}
    holders = {span: array("q") for span in spans}
    common: set[tuple[int, ...]] = set()
    for window in index.iter_windows():
        for length, known in wanted.items():
            hashes = np.array(_hashes(window.token_ids, length, multipliers), np.uint64)
            for value in np.intersect1d(hashes, known).tolist():
                span = by_length[length][value]
                records = holders[span]
                if span in common or (records and records[-1] == window.record):
                    continue
                records.append(window.record)
                if len(records) > limit:
                    common.add(span)
                    holders[span] = array("q")
    return {
        span: None if span in common else np.array(records, dtype=np.int64)
        for span, records in holders.items()
    }


def _hashes(ids: Sequence[int], length: int, multipliers: np.ndarray) -> list[int]:
    """A 64-bit hash of each span of this length; spans that differ hardly ever share one."""
    if len(ids) < length:
        return []
    tokens = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
    spans = np.lib.stride_tricks.sliding_window_view(tokens, length)
    mixed = spans * (spans ^ np.uint64(0x9E3779B97F4A7C15))
    hashes: list[int] = (mixed * multipliers[:length]).sum(axis=1, dtype=np.uint64).tolist()
    return hashes
