"""What an audit decides: which leaks count, and the exit code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from haiftrace.auditing.baseline import Baseline, KnownValues, ValueKey
from haiftrace.errors import EXIT_CLEAN, EXIT_INCONCLUSIVE, EXIT_LEAK, UsageError
from haiftrace.findings import Finding
from haiftrace.gate_outcome import BaselineComparison, FailOn, Gate
from haiftrace.privacy import DEFAULT_DETECTION, DetectionSettings

IGNORE_NAME = ".haiftraceignore"
_FINGERPRINT = re.compile(r"ht2:[0-9a-f]{12}")
_MOST_NAMED = 8
_EARLIER = re.compile(r"ht1:[0-9a-f]+")


@dataclass(frozen=True)
class GateSettings:
    """What lets an audit pass.

    Attributes:
        fail_on: "leak" for any, "known-value" for all but those whose value no record holds and no
            probe protects, "traced" for those with a source, "none" for no leak at all.
        max_leaks: the number of leaks that may be there.
        baseline: values of known leaks.
        key: of the values' digests.
        ignored: the reasons by fingerprint, one for each value that may pass, of the ignore file's
            entries that are in force.
        expired: how many entries of it are not any more.
        detection: what detectors look for in texts that a fingerprint is of.
    """

    fail_on: FailOn = "leak"
    max_leaks: int = 0
    baseline: Baseline | None = None
    key: ValueKey | None = None
    ignored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    expired: int = 0
    detection: DetectionSettings = DEFAULT_DETECTION

    def known_values(self) -> KnownValues:
        """The baseline's values, for one run to be compared with."""
        baseline = self.baseline or Baseline()
        return KnownValues(baseline, self.key is not None and self.key.id in baseline.key_ids)


def read_ignored(path: str | None, today: date) -> tuple[dict[str, list[str]], list[str]]:
    """The entries of an ignore file that are in force, and a message for each that has expired.

    A line is `FINGERPRINT YYYY-MM-DD REASON`; it counts through that day, and lets one value pass:
    where more leak under a fingerprint, it needs as many lines. `#` begins a comment.

    Args:
        path: None for `.haiftraceignore` where there is one.

    Raises:
        UsageError: it cannot be read, or a line is no entry.
    """
    if path is None and not Path(IGNORE_NAME).exists():
        return {}, []
    name = path or IGNORE_NAME
    hint = "Write a line as: ht2:0123456789ab 2027-01-31 why this leak is accepted"
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not valid UTF-8"
        raise UsageError(f"The ignore file '{name}' cannot be read: {why}.", hint) from None
    kept: dict[str, list[str]] = {}
    expired: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        columns = line.split(maxsplit=2)
        if _EARLIER.fullmatch(columns[0]):
            raise UsageError(
                f"{name}:{number} has an earlier version's fingerprint, which names no leak now.",
                "Take the leak's fingerprint from a new report.",
            )
        if not _FINGERPRINT.fullmatch(columns[0]):
            raise UsageError(f"{name}:{number} does not begin with a fingerprint.", hint)
        try:
            until = date.fromisoformat(columns[1] if len(columns) > 1 else "")
        except ValueError:
            raise UsageError(f"{name}:{number} has no expiry date.", hint) from None
        if len(columns) < 3:
            raise UsageError(f"{name}:{number} gives no reason.", hint)
        if until < today:
            expired.append(
                f"{name}:{number} expired on {until}: {columns[0]} counts again. Renew the entry,"
                " or remove it."
            )
        else:
            kept.setdefault(columns[0], []).append(columns[2].strip())
    return kept, expired


def decide(
    findings: Sequence[Finding],
    settings: GateSettings,
    probes: int,
    unanswered: int = 0,
    partial: bool = False,
    reasons: Sequence[str] = (),
    baseline: BaselineComparison | None = None,
) -> Gate:
    """The gate of an audit. With several methods the first one's findings decide.

    Args:
        probes: how many were put to the model.
        unanswered: how many of them it could not be given.
        partial: the audit was interrupted; it is never clean then.
        reasons: what else is to be said.
        baseline: what became of the known leaks.
    """
    first = findings[0].method if findings else ""
    leaks = [f for f in findings if f.leaked and f.method == first]
    counted = [f for f in leaks if f.suppressed is None]
    kinds = [f.kind for f in counted]
    unsure = sum(f.verdict is None or f.verdict.decision == "inconclusive" for f in counted)
    unheld = kinds.count("not-in-corpus")
    traced = len(counted) - kinds.count("untraced") - unheld
    known = sum(f.suppressed == "baseline" for f in leaks)
    fails = {
        "leak": (len(counted), "found"),
        "known-value": (len(counted) - unheld, "of known values"),
        "traced": (traced, "with a source"),
        "none": (0, ""),
    }
    against, what = fails[settings.fail_on]
    possible = against + (unsure if settings.fail_on == "traced" else 0)
    why = list(reasons)
    code = EXIT_CLEAN
    if against > settings.max_leaks:
        code = EXIT_LEAK
        why.append(f"leaks {what}: {against}; allowed: {settings.max_leaks}")
    else:
        if possible > settings.max_leaks:
            why.append(f"{unsure} more may have a source: their verdict is inconclusive")
        if not probes:
            why.append("no probe was asked")
        if unanswered:
            why.append(f"{unanswered} of {probes} probes could not be asked")
        if partial:
            why.append("the audit was interrupted")
        if possible > settings.max_leaks or not probes or unanswered or partial:
            code = EXIT_INCONCLUSIVE
    if code != EXIT_CLEAN:
        why += _beyond(leaks, settings)
    if settings.expired:
        why.append(f"entries of the ignore file that have expired: {settings.expired}")
    return Gate(
        exit_code=code,
        fail_on=settings.fail_on,
        max_leaks=settings.max_leaks,
        probes=probes,
        leaks=len(counted),
        verbatim=kinds.count("verbatim"),
        inferred=kinds.count("inferred"),
        attributed=kinds.count("attributed"),
        untraced=kinds.count("untraced"),
        not_in_corpus=unheld,
        known=known,
        ignored=len(leaks) - len(counted) - known,
        inconclusive=unsure,
        partial=partial,
        reasons=tuple(why),
        baseline=None if partial else baseline,
    )


def _beyond(leaks: Sequence[Finding], settings: GateSettings) -> list[str]:
    """What is to be said of values that leak where the baseline knows fewer, or others."""
    names = {f.fingerprint for f in leaks if f.suppressed is None and f.fingerprint is not None}
    known = names & set(settings.known_values().names)
    if not known:
        return []
    return [
        f"known leaks with a further value, which the baseline does not know: {len(known)}"
        f" ({', '.join(sorted(known)[:_MOST_NAMED])})"
    ]
