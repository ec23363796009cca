"""Findings: the result of a trace as plain data, which every report renders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from haiftrace.gate_outcome import Gate, ReportComparison

SCHEMA_VERSION = 2

Decision = Literal["traced", "no source found", "inconclusive"]
Kind = Literal["verbatim", "inferred", "attributed", "untraced", "not-in-corpus"]
Basis = Literal["influence", "text", "influence and text"]


@dataclass(frozen=True)
class PrivateValue:
    """A value that must not be in a response: given with a probe, or detected.

    Attributes:
        type: what it is: "email", "phone", "date-of-birth", "address", "card", ….
        value: the text, as it was given or as it stands where it was detected.
        given: True where a probe named it, False where only a detector did.
    """

    type: str
    value: str
    given: bool = True


@dataclass(frozen=True)
class Probe:
    """A question to the checkpoint, and what must not be in the answer.

    Attributes:
        id: unique in its run.
        path, line: where it was read from; None where it came from elsewhere.
        protected: the values that a response must not hold.
    """

    id: str
    path: str | None = None
    line: int | None = None
    protected: tuple[PrivateValue, ...] = ()


@dataclass(frozen=True)
class NullDistribution:
    """Scores of control queries whose own source was left out: what chance alone reaches.

    Attributes:
        samples: how many null samples, one a control.
        edges, counts: a histogram of their statistics; one edge more than counts.
        threshold: the statistic at which p equals alpha; None where the samples are too few.
    """

    samples: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    threshold: float | None


@dataclass(frozen=True)
class Verdict:
    """What a finding's first place means.

    Attributes:
        decision: whether this corpus holds the source.
        alpha: the accepted false-accusation rate.
        statistic: name of what is compared: "margin" or "relative margin".
        value: of the first record.
        p_value: fraction of the controls without a source that are as high; None without controls.
        q_value: the p-value over all findings of the run by Benjamini and Hochberg.
        power: fraction of the controls with their source there that clear alpha.
        lengths: tokens of the controls' responses that it was compared with, ascending.
        null: those controls, of the nearest level.
        reasons: why it is inconclusive, in plain words.
        basis: of a traced one: what names the source: influence, the text that holds it, or both.
    """

    decision: Decision
    alpha: float
    statistic: str = ""
    value: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    power: float | None = None
    lengths: tuple[int, ...] = ()
    null: NullDistribution | None = None
    reasons: tuple[str, ...] = ()
    basis: Basis | None = None


@dataclass(frozen=True)
class TokenEvidence:
    """One token of a training record.

    Attributes:
        position: index of the token in its record (not in its window).
        token_id: vocabulary id, or None where a report masks it.
        text: the characters of the record that the token covers (may be empty for special tokens).
        start, end: character offsets of `text` in the record's text.
        loss: cross-entropy in nats of this token given those before it; 0.0 where it is no label.
        grad_norm: norm of the gradient of that loss that the index knows: of the direct value
            gradients of the layers that judge, or of a model without these the full one.
        evidence: what this token contributes to the record's score.
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
class PairEvidence:
    """What a word of a record taught of a word of the response, by a method of token pairs.

    Attributes:
        response_text: the word of the response (may be empty for special tokens).
        response_positions: of the word's tokens, as in `Finding.response_tokens`.
        record_text: the word of the record (may be empty for special tokens).
        record_positions: of the word's tokens in the record, as in `RecordEvidence.tokens`.
        start, end: character offsets of `record_text` in the record's text.
        evidence: what the pair contributes to the record's score.
    """

    response_text: str
    response_positions: tuple[int, ...]
    record_text: str
    record_positions: tuple[int, ...]
    start: int
    end: int
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
    `text` is the text that `tokens` covers: all of the record, or, for a record longer than the
    model's context, its best window (`window_start` is then the position of its first token).
    `content_hash` is the SHA-256 (hex) of the record's full text; `p_value` is this record's under
    the finding's null distribution, None without one. `pairs` are the strongest pairs of words of
    response and record, strongest first; empty for a method that scores no pairs.
    `layers` are the contributions of the model's layers to the score, from the first on; empty for
    a method that does not score by layers. `holds` says whether the record's text holds what was
    traced, in any spelling; None where that was not looked up. `subject` is the value of its group
    field, by which the corpus says whom it is about; None without one.
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
    content_hash: str | None = None
    p_value: float | None = None
    pairs: tuple[PairEvidence, ...] = ()
    layers: tuple[float, ...] = ()
    holds: bool | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Holder:
    """A record of the corpus whose text holds what was traced, in any spelling.

    Attributes:
        score: by the finding's method; None where it was not scored.
        group: number of its near-copy group; None where the index knows none.
    """

    id: str
    source: Source
    score: float | None = None
    group: int | None = None


@dataclass(frozen=True)
class Asking:
    """What is to be said of how the model was asked: not as it was trained.

    Attributes:
        note: in a sentence or two, without the option.
        option: of the command, with which it would be asked as it was trained; None where no such
            form is known.
        prompt_loss: mean loss in nats of the prompt's tokens as it was asked.
        corpus_loss: the highest that is usual in the corpus; None where that is not known.
        option_loss: with the option, over what closes its form too; None where it was not measured.
    """

    note: str
    option: str | None
    prompt_loss: float
    corpus_loss: float | None = None
    option_loss: float | None = None


@dataclass(frozen=True)
class ResponseToken:
    """A token of the traced response: its loss under the checkpoint, and whether it is traced."""

    position: int
    token_id: int | None
    text: str
    loss: float


@dataclass(frozen=True)
class Frequency:
    """How often a checkpoint says something where its answers are drawn.

    Attributes:
        sampled: answers that were drawn.
        said: those of them that say it.
        greedy: whether the greedy answer says it.
        temperature: of the draws.
    """

    sampled: int
    said: int
    greedy: bool
    temperature: float = 1.0


@dataclass(frozen=True)
class Finding:
    """One traced response and the records that put it there, best first.

    Attributes:
        generated: True where the checkpoint itself produced `response`.
        span: the span of the response that was traced, when not all of it.
        mean_loss: mean loss in nats over the traced tokens (how readily the model says it).
        exhaustive: True where every record was scored, False where a shortlist was.
        scored: how many record windows were scored exactly.
        notes: warnings to be shown with the result, in plain words.
        verdict: what the first place means; None where nothing was calibrated.
        probe: the probe that was answered, in an audit.
        leaked: the private values that the response holds; a finding with none is no leak.
        kind: of a leak; "not-in-corpus": no record holds the value, and no probe protects it.
        fingerprint: of a leak: the same in every run that finds it again, whatever the scores.
        asked: what was asked, before any template; empty where that is not known.
        value_number: of a leak: which of the values under its fingerprint in this run, from 1.
        value_digest: of a leak: of its value under the user's key; None without a key.
        suppressed: why a leak does not count: "baseline", or the ignore file's reason.
        holders: all records that hold what was traced, those that score highest first; None where
            that was not looked up.
        asking: what is to be said of how the model was asked; None where nothing is.
        frequency: how often it is said; None where no answers were drawn.
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
    verdict: Verdict | None = None
    probe: Probe | None = None
    leaked: tuple[PrivateValue, ...] = ()
    kind: Kind | None = None
    fingerprint: str | None = None
    suppressed: str | None = None
    holders: tuple[Holder, ...] | None = None
    asked: str = ""
    value_number: int | None = None
    value_digest: str | None = None
    asking: Asking | None = None
    frequency: Frequency | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The checkpoint: path, architecture name, parameter counts, fingerprint of weights.

    `scope` names the parameters that this run's methods look at, and `traced_parameters` counts
    them.
    """

    path: str
    architecture: str
    parameters: int
    traced_parameters: int
    scope: str
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
    """A run: its model, its index, its settings and its findings.

    `gate` is an audit's; `masked` says that private values were replaced in all texts;
    `comparison` is with an earlier report.
    """

    model: ModelInfo
    index: IndexInfo
    findings: tuple[Finding, ...]
    tool_version: str
    command: str = ""
    seconds: float = 0.0
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    gate: Gate | None = None
    masked: bool = False
    schema_version: int = SCHEMA_VERSION
    comparison: ReportComparison | None = None
