"""The leaks that an earlier report knows, told apart by value.

A report holds no value from which a leak could be read, so what stands for a value is either its
digest under a key that the user keeps, which is exact, or what the report shows of it: the
characters that its mask leaves, and how many different values there were.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haiftrace.errors import OutputError, UsageError
from haiftrace.findings import SCHEMA_VERSION
from haiftrace.gate_outcome import BaselineComparison, GoneLeak
from haiftrace.privacy import canonical, identity, mask_value

_HINT = "Give --baseline a report that this version of haiftrace wrote with -o report.json."
_KEY_HINT = "Give --baseline-key the file that was kept beside the baseline."
_KEY = re.compile(r"[0-9a-f]{64}")
_CURRENT = "ht2:"


@dataclass(frozen=True)
class KnownValue:
    """A value under a fingerprint of a baseline.

    Attributes:
        shown: the letters and digits that its report shows; all of them where it was revealed.
        revealed: the report shows it as it is.
        digest: under the user's key, if there was one.
        probe, type: where it leaked, and what it is.
    """

    shown: str
    revealed: bool = False
    digest: str | None = None
    probe: str = ""
    type: str = ""


@dataclass(frozen=True)
class Baseline:
    """The known values by fingerprint."""

    values: Mapping[str, tuple[KnownValue, ...]] = field(default_factory=dict)

    @property
    def key_ids(self) -> frozenset[str]:
        """Of the keys that its digests were made with."""
        listed = (known.digest for values in self.values.values() for known in values)
        return frozenset(digest.partition(":")[0] for digest in listed if digest)


@dataclass(frozen=True)
class ValueKey:
    """A key for digests of values: without it no value can be guessed from its digest."""

    secret: bytes

    @property
    def id(self) -> str:
        """Names the key, and reveals nothing of it."""
        return self._hash("the key itself")[:8]

    def digest(self, values: Iterable[str]) -> str:
        """Of one or more values, in whatever spelling: `KEYID:` and 16 hexadecimal digits."""
        forms = json.dumps(sorted({identity(value) for value in values}))
        return f"{self.id}:{self._hash(forms)[:16]}"

    def _hash(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


class KnownValues:
    """Says of the leaks of a run, one after the other, whether a baseline knows them.

    Each known value lets one value pass. Where the baseline has digests under the run's key, it is
    the one with this digest; otherwise one whose report shows the same letters and digits.

    Args:
        baseline: the known values.
        exact: the digests of both sides are of one key.
    """

    def __init__(self, baseline: Baseline, exact: bool) -> None:
        self._baseline = baseline
        self._exact = exact
        self._left = {name: list(values) for name, values in baseline.values.items()}

    @property
    def names(self) -> Collection[str]:
        """The fingerprints under which it knows a value."""
        return self._baseline.values.keys()

    def take(self, fingerprint: str, values: Sequence[str], digest: str | None) -> bool:
        """Whether a distinct value of the run under a fingerprint is known."""
        left = self._left.get(fingerprint, [])
        for known in left:
            if self._is_same(known, values, digest):
                left.remove(known)
                return True
        return False

    def comparison(self, asked: Collection[str]) -> BaselineComparison:
        """What became of the known values, once all leaks of the run were taken.

        Args:
            asked: ids of the probes that the run asked.
        """
        left = [(name, known) for name, values in self._left.items() for known in values]
        gone = [
            GoneLeak(name, known.probe, known.type) for name, known in left if known.probe in asked
        ]
        total = sum(len(values) for values in self._baseline.values.values())
        return BaselineComparison(total, len(left) - len(gone), self._exact, tuple(gone))

    def _is_same(self, known: KnownValue, values: Sequence[str], digest: str | None) -> bool:
        if self._exact:
            return known.digest == digest
        if known.revealed:
            return known.shown == shown_letters(values, revealed=True)
        return known.shown == shown_letters(values)


def shown_letters(values: Iterable[str], *, revealed: bool = False) -> str:
    """The letters and digits that a report shows of values, whatever signs stand between them."""
    if revealed:
        return " ".join(identity(value) for value in values)
    return " ".join(canonical(mask_value(value)).text for value in values)


def read_baseline(path: str) -> Baseline:
    """The leaks in an earlier JSON report, of its first method.

    Raises:
        UsageError: it cannot be read, is no report, or of a version that named leaks otherwise.
    """
    content = _read_report(path)
    findings = [finding for finding in content["findings"] if isinstance(finding, dict)]
    leaks = [f for f in findings if isinstance(f.get("fingerprint"), str) and f.get("leaked")]
    if findings and not leaks:
        raise UsageError(f"The baseline '{path}' names no leak: its findings are none.", _HINT)
    if any(not leak["fingerprint"].startswith(_CURRENT) for leak in leaks):
        raise UsageError(
            f"The baseline '{path}' names leaks by fingerprints of an earlier version.",
            "Audit the checkpoint that was accepted once more, and keep that report.",
        )
    method = leaks[0].get("method") if leaks else None
    values: dict[str, dict[object, KnownValue]] = {}
    for leak in leaks:
        if leak.get("method") == method:
            known = _known(leak, not content.get("masked"))
            of_place = values.setdefault(leak["fingerprint"], {})
            of_place.setdefault(known.digest or leak.get("value_number") or len(of_place), known)
    return Baseline({name: tuple(known.values()) for name, known in values.items()})


def _read_report(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        what = f"The baseline '{path}' cannot be read: {error.strerror}."
        raise UsageError(what, _HINT) from None
    except (ValueError, RecursionError):
        raise UsageError(f"The baseline '{path}' is no JSON report.", _HINT) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or not isinstance(content.get("findings"), list):
        raise UsageError(f"The baseline '{path}' is no report of haiftrace.", _HINT)
    if not 1 <= version <= SCHEMA_VERSION:  # which name leaks the same way
        raise UsageError(
            f"The baseline '{path}' has schema version {version}; this version of haiftrace reads"
            f" 1 to {SCHEMA_VERSION}.",
            _HINT,
        )
    return dict(content)


def _known(leak: Mapping[str, Any], revealed: bool) -> KnownValue:
    """A leak of a report as a known value; what is of another form than a report's is left out."""
    leaked = [v for v in leak["leaked"] if isinstance(v, dict)]
    texts = [str(value.get("value")) for value in leaked]
    types = dict.fromkeys(str(value.get("type")) for value in leaked)
    shown = " ".join(canonical(text).text for text in texts)
    probe, digest = leak.get("probe"), leak.get("value_digest")
    return KnownValue(
        shown_letters(texts, revealed=True) if revealed else shown,
        revealed,
        digest if isinstance(digest, str) else None,
        str(probe.get("id")) if isinstance(probe, dict) else "",
        ", ".join(types),
    )


def read_key(
    path: str | None, baseline: Baseline | None, say: Callable[[str], None]
) -> ValueKey | None:
    """The key in a file, which is made, private to its owner, where there is none.

    Args:
        baseline: what the digests are compared with.
        say: is told of a key that others may read, and of a baseline without its key.

    Raises:
        UsageError: the file holds no key, or another one than the baseline's.
        OutputError: a new one cannot be written.
    """
    wanted = baseline.key_ids if baseline is not None else frozenset[str]()
    if path is None:
        if wanted:
            say(
                "The baseline was made with a key: without --baseline-key its values are compared"
                " by their number and by what the report shows of them."
            )
        return None
    if not os.path.lexists(path):
        if wanted:
            raise UsageError(f"The key '{path}' of the baseline is not there.", _KEY_HINT)
        _make_key(path)
    try:
        text = Path(path).read_text(encoding="ascii").strip()
        mode = os.stat(path).st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no key"
        raise UsageError(f"The key '{path}' cannot be read: {why}.", _KEY_HINT) from None
    if not _KEY.fullmatch(text):
        raise UsageError(f"'{path}' holds no key: it is not 64 hexadecimal digits.", _KEY_HINT)
    key = ValueKey(bytes.fromhex(text))
    if wanted and key.id not in wanted:
        raise UsageError(f"The baseline was made with another key than '{path}'.", _KEY_HINT)
    if mode & 0o077:
        say(f"Others may read the key '{path}': chmod 600 makes it private.")
    if baseline is not None and baseline.values and not wanted:
        say(
            "The baseline was made without a key: its values are compared by their number and by"
            " what the report shows of them. Keep this run's report as the next baseline."
        )
    return key


def _make_key(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
    except OSError as error:
        raise OutputError(
            f"The key cannot be written to '{path}': {error.strerror or error}.",
            "Give --baseline-key a file in a directory that exists.",
        ) from None
