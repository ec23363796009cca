"""What a trace found. Every report renders these; they know nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TokenEvidence:
    """One token of a training record.

    Attributes:
        position: index of the token in its record (not in its window).
        token_id: vocabulary id, or None where a report masks it.
        text: the characters of the record that the token covers (may be empty for special tokens).
        start, end: character offsets of `text` in the record's text.
        loss: cross-entropy in nats of this token given those before it; 0.0 where it is no label.
        grad_norm: norm of the gradient of that loss over the traced parameters.
        evidence: this token's share of the record's score.
    """

    position: int
    token_id: int | None
    text: str
    start: int
    end: int
    loss: float
    grad_norm: float
    evidence: float


@dataclass(frozen=True)
class Source:
    """Where a record stands: a corpus file and, where it has lines, a 1-based line number."""

    path: str
    line: int | None


@dataclass(frozen=True)
class RecordEvidence:
    """One ranked training record; the `evidence` of its tokens sums to `score`.

    `cosine` is None for a method that has no record-side vector (search by words, TracInCP).
    `text` is the text that `tokens` covers: the whole record, or, for a record longer than the
    model's context, its best window (`window_start` is then the position of its first token).
    """

    rank: int
    id: str
    source: Source
    score: float
    cosine: float | None
    text: str
    tokens: tuple[TokenEvidence, ...]
    window_start: int = 0
    windows: int = 1


@dataclass(frozen=True)
class ResponseToken:
    """A token of the traced response: its loss under the checkpoint, and whether it is traced."""

    position: int
    token_id: int | None
    text: str
    loss: float


@dataclass(frozen=True)
class Finding:
    """One traced response and the records that put it there, best first.

    Attributes:
        generated: True where the checkpoint itself produced `response`.
        span: the part of the response that was traced, when not all of it.
        mean_loss: mean loss in nats over the traced tokens (how readily the model says it).
        exhaustive: True where every record was scored, False where a shortlist was.
        scored: how many record windows were scored exactly.
        notes: warnings to be shown with the result, in plain words.
    """

    prompt: str
    response: str
    method: str
    records: tuple[RecordEvidence, ...]
    response_tokens: tuple[ResponseToken, ...] = ()
    mean_loss: float = 0.0
    generated: bool = False
    span: str | None = None
    exhaustive: bool = False
    scored: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """The checkpoint: path, architecture name, parameter count, fingerprint of weights."""

    path: str
    architecture: str
    parameters: int
    traced_parameters: int
    dtype: str
    fingerprint: str


@dataclass(frozen=True)
class IndexInfo:
    """The index: path, number of records, windows and label tokens, parameter scope."""

    path: str
    records: int
    windows: int
    tokens: int
    scope: str
    corpus_fingerprint: str


@dataclass(frozen=True)
class Report:
    """A whole run: what was asked, of which model and index, and what was found."""

    model: ModelInfo
    index: IndexInfo
    findings: tuple[Finding, ...]
    tool_version: str
    command: str = ""
    seconds: float = 0.0
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
