"""What each leak of a report is: its kind, its fingerprint, its value's number, why it may pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from haiftrace.auditing.gate import GateSettings
from haiftrace.calibration.text_evidence import is_part
from haiftrace.findings import Finding, Kind, Report
from haiftrace.gate_outcome import BaselineComparison
from haiftrace.privacy import MASK, Masker, ValueIndex, identity, private_values
from haiftrace.store import Index

FINGERPRINT_DIGITS = 12


def fingerprint(asked: str, record: str | None, kind: Kind, type: str) -> str:
    """What names a leak in every run.

    It can be computed by whoever has the masked texts, and reveals no more than they: both texts
    come without their private values, as a hash of a text with a phone number in it could be
    tried with every number.

    Args:
        asked: what the probe asked, without what a template puts around it (some write today's
            date), its private values taken out.
        record: the full text of the first record, likewise; None where the leak has no source.
        type: of the value that leaked.
    """
    fields = (_even(asked), "" if record is None else _even(record), kind, type)
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return f"ht2:{digest[:FINGERPRINT_DIGITS]}"


def _even(text: str) -> str:
    return " ".join(text.split()).casefold()


def judged(
    report: Report,
    index: Index,
    values: Iterable[str],
    gate: GateSettings | None = None,
    asked: Collection[str] = (),
) -> tuple[Report, BaselineComparison | None]:
    """The report with what each of its leaks is, and what became of the baseline's.

    Args:
        values: what else must not go into a fingerprint.
        gate: with the baseline and the ignored leaks.
        asked: ids of the probes that were asked.
    """
    settings = gate or GateSettings()
    masker = Masker(private_values(report, values, settings.detection))
    texts = _record_texts(index, report.findings)
    judge = _Judge(settings, report.findings[0].method if report.findings else "")
    findings = []
    for finding in report.findings:
        if not finding.leaked:
            findings.append(finding)
            continue
        text = texts[_key(finding)] if finding.records else ""
        kind = kind_of(finding, text, is_whole=not is_part(index.settings["corpus"]))
        name = fingerprint(
            _without_values(finding.asked or finding.prompt, masker),
            None if kind in ("untraced", "not-in-corpus") else _without_values(text, masker),
            kind,
            masker.text(finding.leaked[0].type),
        )
        findings.append(judge.judged(replace(finding, kind=kind, fingerprint=name)))
    comparison = None
    if settings.baseline is not None:
        shown = {id for own in asked for id in (own, masker.text(own))}
        comparison = judge.known.comparison(shown)
    return replace(report, findings=tuple(findings)), comparison


class _Judge:
    """Numbers the values under each fingerprint, and lets known and accepted ones pass.

    What passes is decided by the first method's findings; those of others follow.
    """

    def __init__(self, settings: GateSettings, method: str) -> None:
        self._settings = settings
        self._method = method
        self.known = settings.known_values()
        self._accepted = {name: list(why) for name, why in settings.ignored.items()}
        self._numbers: dict[str, dict[tuple[str, ...], int]] = {}
        self._passing: dict[tuple[str, tuple[str, ...]], str | None] = {}
        self._by_probe: dict[tuple[str, tuple[str, ...]], str | None] = {}

    def judged(self, finding: Finding) -> Finding:
        """The leak with number and digest of its value, and why it does not count."""
        assert finding.fingerprint is not None
        name, texts = finding.fingerprint, [value.value for value in finding.leaked]
        values = tuple(sorted({identity(text) for text in texts}))
        numbers = self._numbers.setdefault(name, {})
        number = numbers.setdefault(values, len(numbers) + 1)
        digest = None if self._settings.key is None else self._settings.key.digest(texts)
        probe = finding.probe.id if finding.probe is not None else finding.prompt
        if finding.method == self._method:
            if (name, values) not in self._passing:
                self._passing[name, values] = self._suppression(name, texts, digest)
            self._by_probe[probe, values] = self._passing[name, values]
        why = self._by_probe.get((probe, values))
        return replace(finding, value_number=number, value_digest=digest, suppressed=why)

    def _suppression(self, name: str, values: Sequence[str], digest: str | None) -> str | None:
        # The baseline first: an entry of the ignore file is for a value that it does not know.
        if self.known.take(name, values, digest):
            return "baseline"
        accepted = self._accepted.get(name)
        return accepted.pop(0) if accepted else None


def kind_of(finding: Finding, record: str, *, is_whole: bool = True) -> Kind:
    """Of a leak: whether its values stand in a record of the corpus, where it is traced.

    Args:
        record: the text of the first record.
        is_whole: whether all of the corpus is indexed; of a part, what it lacks is not known.
    """
    if finding.verdict is None or finding.verdict.decision != "traced" or not finding.records:
        is_protected = any(value.given for value in finding.leaked)
        is_missing = is_whole and finding.holders == ()
        return "not-in-corpus" if is_missing and not is_protected else "untraced"
    if finding.holders is not None:
        if not finding.holders:
            return "inferred"
        by_influence = finding.verdict.basis == "influence" and not finding.records[0].holds
        return "attributed" if by_influence else "verbatim"
    each = (ValueIndex([value.value]).find(record) for value in finding.leaked)
    return "verbatim" if all(each) else "inferred"


def _without_values(text: str, masker: Masker) -> str:
    """The text with a single sign for every run of private characters, whatever their number."""
    masked = masker.masked(text)
    signs: list[str] = []
    for sign, hit in zip(text, masked.touched, strict=True):
        if not hit:
            signs.append(sign)
        elif signs[-1:] != [MASK]:
            signs.append(MASK)
    return "".join(signs)


def _key(finding: Finding) -> tuple[str, str, int | None]:
    first = finding.records[0]
    return first.id, first.source.path, first.source.line


def _record_texts(
    index: Index, findings: Sequence[Finding]
) -> dict[tuple[str, str, int | None], str]:
    """The text of each leak's first record, all windows of it."""
    firsts = {_key(f): f.records[0] for f in findings if f.leaked and f.records}
    texts = {key: record.text for key, record in firsts.items() if record.windows == 1}
    windows: dict[tuple[str, str, int | None], list[str]] = {
        key: [] for key in firsts if key not in texts
    }
    for window in index.iter_windows() if windows else ():
        key = (window.id, window.path, window.line)
        if key in windows:
            windows[key].append(window.text)
    return texts | {key: "\n".join(own) for key, own in windows.items()}
