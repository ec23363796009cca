"""What an audit decides, as plain data: the gate's counts, and what became of known leaks."""

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
