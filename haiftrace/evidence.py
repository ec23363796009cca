"""From what was scored to what a finding says: records, their tokens, the response's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from haiftrace.findings import RecordEvidence, ResponseToken, Source, TokenEvidence
from haiftrace.query import Query
from haiftrace.scoring.best import Scored

if TYPE_CHECKING:
    from torch import Tensor

WEAK_LOSS = 3.0
"""Mean loss in nats above which the model would hardly say the response (under 5 % a token)."""


def weakness(mean_loss: float) -> tuple[str, ...]:
    """A warning where the model would hardly say the response."""
    if mean_loss <= WEAK_LOSS:
        return ()
    return (
        f"the model would hardly say this (mean loss {mean_loss:.2f} nats a token): the trace is"
        " weak evidence",
    )


def response_tokens(query: Query, losses: Tensor) -> tuple[ResponseToken, ...]:
    """The traced tokens, with losses [T] of the whole query."""
    return tuple(
        ResponseToken(position, query.token_ids[position], query.pieces[position], float(loss))
        for position, loss in enumerate(losses.tolist())
        if query.labels[position]
    )


def record_evidence(rank: int, scored: Scored, p_value: float | None = None) -> RecordEvidence:
    """A ranked record by its best window."""
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
    )
