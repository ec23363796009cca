"""What an audit decides and two reports differ in, as plain data: counts, what became of leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FailOn = Literal["leak", "known-value", "traced", "none"]


@dataclass(frozen=True)
class GoneLeak:
    """A leak of the baseline that did not occur again, though its probe was asked."""

    fingerprint: str
    probe: str
    type: str


@dataclass(frozen=True)
class BaselineComparison:
    """What became of the leaks of a baseline.

    Attributes:
        leaks: how many it knows, each value under a fingerprint one.
        not_asked: how many of them neither occurred nor had their probe asked again.
        exact: values were told apart by keyed digests, not by their number and what masks show.
        gone: those whose probe was asked again, and that did not occur again.
    """

    leaks: int
    not_asked: int
    exact: bool
    gone: tuple[GoneLeak, ...]


@dataclass(frozen=True)
class Gate:
    """What an audit decides.

    Attributes:
        exit_code: 0 passed, 1 leaks, 3 inconclusive.
        fail_on, max_leaks: as configured.
        probes, leaks: how many, baseline and ignored ones not among the leaks.
        verbatim, inferred, attributed, untraced, not_in_corpus: the leaks by kind.
        known, ignored: leaks that the baseline or the ignore file lets pass.
        inconclusive: findings whose verdict is.
        partial: True where the run was interrupted.
        reasons: why the exit code is what it is, in plain words.
        baseline: what became of the known leaks; None without one, or in a partial run.
    """

    exit_code: int
    fail_on: FailOn
    max_leaks: int
    probes: int
    leaks: int
    verbatim: int = 0
    inferred: int = 0
    attributed: int = 0
    untraced: int = 0
    not_in_corpus: int = 0
    known: int = 0
    ignored: int = 0
    inconclusive: int = 0
    partial: bool = False
    reasons: tuple[str, ...] = ()
    baseline: BaselineComparison | None = None


LeakState = Literal["gone", "new", "still there"]


@dataclass(frozen=True)
class ComparedLeak:
    """A value that leaks in one of two reports, or in both.

    Attributes:
        fingerprint: in the later report; of what is gone, in the earlier one.
        probe: its id, or what was asked where there was no probe.
        before, after: the class of the leak in either; None where it does not leak there.
        source_before, source_after: the place that it is traced to; None without one.
    """

    state: LeakState
    fingerprint: str
    probe: str
    type: str
    value: str
    before: str | None = None
    after: str | None = None
    source_before: str | None = None
    source_after: str | None = None


@dataclass(frozen=True)
class ReportComparison:
    """A report beside an earlier one.

    Attributes:
        model_fingerprint, corpus_fingerprint, probes: of the earlier one; probes None where it is
            no audit.
        exact: values were told apart exactly, not by what masks show of them.
        leaks: of both, those that are new first, then those still there, then those gone.
    """

    model_fingerprint: str
    corpus_fingerprint: str
    probes: int | None
    exact: bool
    leaks: tuple[ComparedLeak, ...]

    def of(self, state: LeakState) -> tuple[ComparedLeak, ...]:
        """Its leaks in a state."""
        return tuple(leak for leak in self.leaks if leak.state == state)
