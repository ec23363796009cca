"""A report without its private values: every text of it, whatever fields it may get.

The walk is over all fields, so that what is added to the findings is masked without being named
here. Fields named in `_KEPT` are the exception: they hold no text of a prompt, a response or a
record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

from haiftrace.findings import (
    Finding,
    ModelInfo,
    NullDistribution,
    PairEvidence,
    PrivateValue,
    RecordEvidence,
    Report,
    ResponseToken,
    TokenEvidence,
)
from haiftrace.gate_outcome import ComparedLeak, GoneLeak, ReportComparison
from haiftrace.privacy.canonical import canonical
from haiftrace.privacy.characters import bare
from haiftrace.privacy.free_text import (
    command_values,
    detected_in,
    detected_in_names,
    mask_command,
)
from haiftrace.privacy.masking import MASK, Masked, Masker, mask_value
from haiftrace.privacy.settings import DEFAULT_DETECTION, TYPES, DetectionSettings

_KEPT = {
    Finding: {"method", "kind", "fingerprint", "value_digest"},
    GoneLeak: {"fingerprint"},
    ComparedLeak: {"fingerprint", "state", "before", "after"},
    ReportComparison: {"model_fingerprint"},
    ModelInfo: {"architecture", "dtype", "fingerprint"},
    Report: {"tool_version"},
}
_SAID_OR_READ = {
    Finding: {"prompt", "response", "span", "response_tokens", "leaked"},
    RecordEvidence: {"text", "tokens", "pairs", "layers"},
    NullDistribution: {"edges", "counts"},
    Report: {"command"},
}
_ALWAYS_KEPT = {"corpus_fingerprint", "decision", "statistic", "fail_on", "basis"}

Tokens = TypeVar("Tokens", TokenEvidence, ResponseToken)
ResponseMasks = Mapping[int, tuple[str, Masked]]
"""The response's tokens by position: text and mask of each."""


def private_values(
    report: Report, more: Iterable[str] = (), detection: DetectionSettings | None = None
) -> tuple[str, ...]:
    """What must not be seen in a report.

    Args:
        report: its probes' values, the leaked ones, and what detectors see in any text of it.
        more: values of probes that left no finding.
        detection: what detectors look for.
    """
    settings = detection or DEFAULT_DETECTION
    values = dict.fromkeys(more)
    for finding in report.findings:
        values |= dict.fromkeys(value.value for value in finding.leaked)
        if finding.probe is not None:
            values |= dict.fromkeys(value.value for value in finding.probe.protected)
        values |= dict.fromkeys(detected_in(finding.prompt, settings=settings))
        values |= dict.fromkeys(detected_in(finding.response, finding.prompt, settings))
        for record in finding.records:
            values |= dict.fromkeys(detected_in(record.text, settings=settings))
    values |= dict.fromkeys(command_values(report.command, settings))
    for text in dict.fromkeys(_other_texts(report)):
        values |= dict.fromkeys(detected_in_names(text, settings))
    return tuple(values)


def mask_report(
    report: Report, more: Iterable[str] = (), detection: DetectionSettings | None = None
) -> Report:
    """The report with every private value masked in every text; see `private_values`.

    Lengths and offsets stay. Token ids become None where a token belongs to a value, and the
    content hashes of records, from which a value could be guessed, are left out.
    """
    masker = Masker(private_values(report, more, detection))
    masked = cast(Report, _walk(replace(report, command=""), masker))
    return replace(masked, command=mask_command(report.command, masker), masked=True)


def _other_texts(value: Any) -> Iterator[str]:
    """The texts of a report that are neither said nor read: paths, ids, notes, reasons, types."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _other_texts(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _other_texts(key)
            yield from _other_texts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for name in _other_fields(type(value)):
            yield from _other_texts(getattr(value, name))


@cache
def _other_fields(kind: type) -> tuple[str, ...]:
    skipped = _SAID_OR_READ.get(kind, set()) | _KEPT.get(kind, set()) | _ALWAYS_KEPT
    return tuple(field.name for field in fields(kind) if field.name not in skipped)


def _walk(value: Any, masker: Masker) -> Any:
    if isinstance(value, str):
        return masker.text(value)
    if isinstance(value, tuple | list):
        return type(value)(_walk(item, masker) for item in value)
    if isinstance(value, Mapping):
        return {_walk(key, masker): _walk(item, masker) for key, item in value.items()}
    if isinstance(value, PrivateValue):
        type_ = value.type if value.type in TYPES else masker.text(value.type)
        return replace(value, type=type_, value=mask_value(value.value))
    if isinstance(value, RecordEvidence):
        return _record(value, masker)
    if isinstance(value, Finding):
        return _finding(value, masker)
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value, masker)
    return value


def _fields(value: Any, masker: Masker, **masked: Any) -> Any:
    """A dataclass with its fields walked, but those that are masked already."""
    kept = _KEPT.get(type(value), set()) | _ALWAYS_KEPT | set(masked)
    walked = {
        field.name: _walk(getattr(value, field.name), masker)
        for field in fields(value)
        if field.name not in kept
    }
    return replace(value, **walked, **masked)


def _finding(finding: Finding, masker: Masker) -> Finding:
    text = f"{finding.prompt} {finding.response}"
    masks = masker.pieces([token.text for token in finding.response_tokens], text)
    tokens = _tokens(finding.response_tokens, masks)
    span = finding.span
    if span is not None:  # as it looks in the masked response, where reports look for it
        start = finding.response.find(span)
        masked = masker.text(finding.response)
        span = masked[start : start + len(span)] if start >= 0 else masker.text(span)
    # A record's tokens may be named beside the response's: what is hidden in either is in both.
    secret = _secrets(masker, finding.prompt, finding.response)
    by_position = {
        token.position: (token.text, mask)
        for token, mask in zip(finding.response_tokens, masks, strict=True)
    }
    records = tuple(_record(record, masker, secret, by_position) for record in finding.records)
    return cast(
        Finding,
        _fields(finding, masker, response_tokens=tokens, span=span, records=records),
    )


def _record(
    record: RecordEvidence,
    masker: Masker,
    secret: str = "",
    response: ResponseMasks | None = None,
) -> RecordEvidence:
    masked = masker.masked(record.text)
    masks = [_of_token(token, record.text, masked, masker) for token in record.tokens]
    secret += _secrets(masker, record.text)
    pairs = tuple(_pair(pair, record, masker, secret, response or {}) for pair in record.pairs)
    replaced: dict[str, Any] = {
        "tokens": _tokens(record.tokens, masks),
        "content_hash": None,
        "pairs": pairs,
    }
    known = {"id", "text", "source", "subject", *replaced}
    for field in fields(record):
        if field.name not in known:
            replaced[field.name] = _small_texts(getattr(record, field.name), masker, secret)
    return cast(RecordEvidence, _fields(record, masker, **replaced))


def _of_token(token: TokenEvidence, text: str, masked: Masked, masker: Masker) -> Masked:
    start, end = token.start, token.end
    if text[start:end] == token.text:
        return Masked(masked.text[start:end], masked.touched[start:end])
    own = masker.masked(token.text)
    if not masked.touches(start, end):
        return own
    return Masked(MASK * len(token.text), (True,) * len(token.text))


def _pair(
    pair: PairEvidence,
    record: RecordEvidence,
    masker: Masker,
    secret: str,
    response: ResponseMasks,
) -> PairEvidence:
    """Each word as it looks where it stands, in the masked record and the masked response."""
    if record.text[pair.start : pair.end] == pair.record_text:
        record_word = masker.text(record.text)[pair.start : pair.end]
    else:
        record_word = _small_texts(pair.record_text, masker, secret)
    response_word = _response_word(pair, masker, secret, response)
    # A word alone may by chance be another value than the text that it stands in.
    return replace(
        pair, record_text=masker.text(record_word), response_text=masker.text(response_word)
    )


def _response_word(pair: PairEvidence, masker: Masker, secret: str, response: ResponseMasks) -> str:
    """A pair's word of the response, as the masks of its tokens show it."""
    text = pair.response_text
    pieces = [response[place] for place in pair.response_positions if place in response]
    if len(pieces) < len(pair.response_positions):
        return str(_small_texts(text, masker, secret))
    joined = "".join(piece for piece, _ in pieces)
    start = len(joined) - len(joined.lstrip())
    if joined.strip() == text:
        return "".join(mask.text for _, mask in pieces)[start : start + len(text)]
    # Pieces of a single character, or a stop text behind: which of them is where is not known.
    return MASK * len(text) if any(any(mask.touched) for _, mask in pieces) else text


def _tokens(tokens: tuple[Tokens, ...], masks: Iterable[Masked]) -> tuple[Tokens, ...]:
    return tuple(
        token
        if mask.text == token.text and True not in mask.touched
        else replace(token, text=mask.text, token_id=None if any(mask.touched) else token.token_id)
        for token, mask in zip(tokens, masks, strict=True)
    )


def _secrets(masker: Masker, *texts: str) -> str:
    """The characters of the values in the texts, in canonical form, a line a run of them."""
    runs = []
    for text in texts:
        masked = masker.masked(text)
        if True not in masked.touched:
            continue
        run = "".join(sign if hit else "\0" for sign, hit in zip(text, masked.touched, strict=True))
        runs += [canonical(fragment).text for fragment in run.split("\0") if fragment]
    return "".join(f"{run}\n" for run in runs if run)


def _small_texts(value: Any, masker: Masker, secret: str) -> Any:
    """What other evidence holds of a record or response: each piece that may belong to a value
    that stands there is hidden, as its place is not known here. Letters that stand alone stay.
    """
    if isinstance(value, str):
        folded = canonical(value).text
        is_secret = bool(folded) and folded in secret
        if is_secret and (len(folded) > 1 or not folded.isalpha() or not folded.isascii()):
            return "".join(MASK if bare(sign) else sign for sign in value)
        return masker.text(value)
    if isinstance(value, tuple | list):
        return type(value)(_small_texts(item, masker, secret) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        walked = {
            f.name: _small_texts(getattr(value, f.name), masker, secret) for f in fields(value)
        }
        hidden = any(
            isinstance(old, str) and old != walked[name]
            for name, old in ((f.name, getattr(value, f.name)) for f in fields(value))
        )
        if hidden:  # an id beside a hidden text gives it away
            walked |= {name: None for name in walked if name.endswith("token_id")}
        return replace(value, **walked)
    return value
