"""From scored windows to a finding's evidence: records, their tokens, the response's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from haiftrace.findings import (
    PairEvidence,
    RecordEvidence,
    ResponseToken,
    Source,
    TokenEvidence,
)
from haiftrace.query.query import Query
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.text.words import group_words

if TYPE_CHECKING:
    from torch import Tensor

WEAK_LOSS = 3.0
"""Mean loss in nats above which the model would hardly say the response (under 5 % a token)."""
MOST_PAIRS = 12
"""Pairs of words that a record's evidence holds."""


def weakness(mean_loss: float) -> tuple[str, ...]:
    """A warning where the model would hardly say the response."""
    if mean_loss <= WEAK_LOSS:
        return ()
    return ("the model would hardly say this by itself: the trace is weak evidence",)


def response_tokens(query: Query, losses: Tensor) -> tuple[ResponseToken, ...]:
    """The traced tokens, with losses [T] of all of the query's tokens."""
    return tuple(
        ResponseToken(position, query.token_ids[position], query.pieces[position], float(loss))
        for position, loss in enumerate(losses.tolist())
        if query.labels[position]
    )


def word_pairs(scored: ScoredWindow, query: Query) -> list[PairEvidence]:
    """Every pair of a response word and a record word that has evidence, strongest first.

    A pair's evidence is the sum over the tokens of both words, so that all of them sum to the
    score. Empty for a method that scores no pairs of tokens.
    """
    if not scored.pairs:
        return []
    window = scored.window
    positions = list(scored.pairs)
    response_words = [
        (query.text[word.start : word.end], tuple(positions[i] for i in word.tokens))
        for word in group_words(query.text, [query.offsets[at] for at in positions])
    ]
    record_words = group_words(window.text, window.offsets)
    evidence_WT = [np.sum([scored.pairs[at] for at in places], 0) for _, places in response_words]
    pairs = [
        PairEvidence(
            response_text=text,
            response_positions=places,
            record_text=window.text[word.start : word.end],
            record_positions=tuple(window.start + i for i in word.tokens),
            start=word.start,
            end=word.end,
            evidence=float(evidence_T[list(word.tokens)].sum()),
        )
        for (text, places), evidence_T in zip(response_words, evidence_WT, strict=True)
        for word in record_words
    ]
    return sorted((pair for pair in pairs if pair.evidence), key=lambda pair: -pair.evidence)


def record_evidence(
    rank: int, scored: ScoredWindow, query: Query, p_value: float | None = None
) -> RecordEvidence:
    """A ranked record by its best window, and what it taught of the query."""
    window = scored.window
    tokens = tuple(
        TokenEvidence(
            position=window.start + i,
            token_id=int(window.token_ids[i]),
            text=window.text[start:end],
            start=start,
            end=end,
            loss=float(window.token_loss[i]),
            grad_norm=float(window.token_grad_norm[i]),
            evidence=float(scored.evidence[i]),
        )
        for i, (start, end) in enumerate(window.offsets)
    )
    return RecordEvidence(
        rank=rank,
        id=window.id,
        source=Source(window.path, window.line),
        score=scored.score,
        cosine=scored.cosine,
        text=window.text,
        tokens=tokens,
        window_start=window.start,
        windows=window.windows,
        content_hash=window.content_hash,
        p_value=p_value,
        pairs=tuple(word_pairs(scored, query)[:MOST_PAIRS]),
        layers=scored.layers or (),
        subject=window.group,
    )
