"""The values that leak in a report, told apart as far as the report shows them.

A masked report holds no value, so that what stands for one is its digest under the user's key, or
else its number under its fingerprint and the letters and digits that its mask leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from haiftrace.auditing.baseline import shown_letters
from haiftrace.findings import Finding, Report
from haiftrace.privacy import canonical


@dataclass(frozen=True)
class LeakedValue:
    """A value that leaks under a fingerprint, in a report of any kind.

    Attributes:
        fingerprint, number: as the report names it.
        digest: under the user's key; None without one.
        shown: its letters and digits that the report shows; all of them where it is revealed.
        finding: the first that says it, by the report's first method.
    """

    fingerprint: str
    number: int
    digest: str | None
    shown: str
    finding: Finding

    @property
    def probe(self) -> str:
        """Its probe's id, or what was asked where there was no probe."""
        finding = self.finding
        return finding.probe.id if finding.probe is not None else finding.asked or finding.prompt

    @property
    def type(self) -> str:
        """What leaked: `phone`."""
        return ", ".join(dict.fromkeys(value.type for value in self.finding.leaked))

    @property
    def value(self) -> str:
        """As the report shows it."""
        return ", ".join(dict.fromkeys(value.value for value in self.finding.leaked))

    def is_same(self, other: LeakedValue, *, exact: bool) -> bool:
        """Whether it may be another report's value: by digests, or by what both show.

        Args:
            exact: both have digests under one key.
        """
        return self.digest == other.digest if exact else self.shown == other.shown


def leaked_values_of(report: Report) -> list[LeakedValue]:
    """The distinct values that leak in a report, in its order; of several methods by the first."""
    method = report.findings[0].method if report.findings else ""
    values: dict[tuple[str, int], LeakedValue] = {}
    for finding in report.findings:
        if finding.fingerprint is None or not finding.leaked or finding.method != method:
            continue
        value = leaked_value(finding, masked=report.masked)
        values.setdefault((value.fingerprint, value.number), value)
    return list(values.values())


def leaked_value(finding: Finding, *, masked: bool) -> LeakedValue:
    """The value of a finding that is a leak.

    Args:
        masked: whether the report shows values masked.
    """
    assert finding.fingerprint is not None
    texts = [value.value for value in finding.leaked]
    shown = (
        " ".join(canonical(text).text for text in texts)
        if masked
        else shown_letters(texts, revealed=True)
    )
    number = finding.value_number or 1
    return LeakedValue(finding.fingerprint, number, finding.value_digest, shown, finding)


def have_digests_of_a_key(*sides: Iterable[LeakedValue]) -> bool:
    """Whether all values of all sides have digests, and under one key."""
    keys = {
        None if value.digest is None else value.digest.partition(":")[0]
        for side in sides
        for value in side
    }
    return len(keys) == 1 and None not in keys
