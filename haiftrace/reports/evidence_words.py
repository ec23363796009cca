"""A verdict's evidence in words that need no statistics, and the figures behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from haiftrace.findings import Finding, RecordEvidence, Verdict
from haiftrace.reports.formatting import cosine_text, count_text, listed, score_text

Strength = Literal["strong", "moderate", "weak", "none", "open"]

_STRONG = 0.01
_MODERATE = 0.05
_OF = 1000
"""Answers that a chance is told of; ten times as many while it would be less than one of them."""
_MOST_OF = 1_000_000
_NEARLY_ALL = 0.95

UNSAID = "the model would hardly say this response"
"""A reason of `haiftrace.tracing`, which no calibration settles."""
NAMED_FIRST = "the record that influence names first"
"""Ends a reason of `haiftrace.calibration.text_evidence`: no record holds what is traced."""
NEARLY = "a record stands out, though not as far as alpha asks for"
"""Begins one."""


def p_text(p: float) -> str:
    """A probability in two significant digits: `0.0019`, `0.36`."""
    return f"{p:.2g}"


def finding_p(finding: Finding, without: str) -> str:
    """The p-value of a finding, or what stands in its place."""
    verdict = finding.verdict
    return without if verdict is None or verdict.p_value is None else p_text(verdict.p_value)


def strength(finding: Finding) -> Strength:
    """How strong the evidence for the source is, in a word."""
    verdict = finding.verdict
    if verdict is None or verdict.decision == "inconclusive":
        return "open"
    if verdict.basis == "text" or verdict.p_value is None:
        return "strong" if verdict.decision == "traced" else "none"
    if verdict.decision == "traced":
        return "strong" if verdict.p_value <= _STRONG else "moderate"
    return "weak" if verdict.p_value <= _MODERATE else "none"


def strength_text(finding: Finding) -> str:
    """`strong`; `text` where the text alone names the source; `–` without a verdict."""
    if finding.verdict is None:
        return "–"
    return "text" if finding.verdict.basis == "text" else strength(finding)


def evidence_in_words(finding: Finding) -> list[str]:
    """Sentences for who reads no statistics: how strong the evidence is, and why it is not more."""
    verdict = finding.verdict
    if verdict is None:
        return []
    sentences = []
    if verdict.decision == "traced" and verdict.basis != "text" and verdict.p_value is not None:
        sentences.append(f"{strength(finding).title()} evidence: {_chance(verdict.p_value)}.")
    sentences += _sentences(verdict.reasons)
    if verdict.decision == "no source found" and verdict.p_value is not None:
        sentences.append(f"No record stands out: {_chance(verdict.p_value)}.")
        sentences += _noticed(verdict)
    return sentences


def statistics(finding: Finding) -> list[str]:
    """The figures behind the words: loss, p-value, statistic, threshold, sensitivity."""
    verdict = finding.verdict
    sentences = [_loss(finding)]
    if finding.asking is not None:
        sentences.append(_asked(finding))
    if verdict is None:
        return sentences
    null = verdict.null
    if verdict.p_value is not None:
        what = verdict.statistic or "statistic"
        value = "" if verdict.value is None else f" of {verdict.value:.3g}"
        adjusted = "" if verdict.q_value is None else f", q = {p_text(verdict.q_value)} in this run"
        figure = f"p = {p_text(verdict.p_value)} (alpha {verdict.alpha:g}{adjusted})"
        if null is None:
            sentences.append(f"{figure} for a {what}{value}.")
        else:
            reaching = max(round(verdict.p_value * (null.samples + 1)) - 1, 0)
            sentences.append(
                f"{figure}: of {count_text(null.samples, 'control')} whose source was left out,"
                f" {reaching:,} reached this {what}{value}."
            )
    if null is not None and null.threshold is not None:
        tokens = "token" if verdict.lengths == (1,) else "tokens"
        counts = listed([str(length) for length in verdict.lengths])
        length = f", by controls of {counts} {tokens}" if counts else ""
        sentences.append(
            f"Chance alone exceeds {null.threshold:.3g} in {100 * verdict.alpha:g}% of"
            f" cases{length}."
        )
    if verdict.power is not None:
        sentences.append(
            f"Sensitivity {verdict.power:.0%}: so many of the controls whose source is there are"
            " traced to it. It says how often a source is missed, not how reliable a verdict is."
        )
    return sentences


def record_figures(record: RecordEvidence) -> str:
    """Score, p-value and cosine of a record: `#1 r017: score 382.8, p 0.0039`."""
    figures = [f"score {score_text(record.score)}"]
    if record.p_value is not None:
        figures.append(f"p {p_text(record.p_value)}")
    if record.cosine is not None:
        figures.append(f"cosine {cosine_text(record.cosine)}")
    return f"#{record.rank} {record.id}: {', '.join(figures)}."


def says_readily(finding: Finding) -> str:
    """How sure the model is of what was traced, in words."""
    return f"the model is {math.exp(-max(finding.mean_loss, 0.0)):.0%} sure of each token"


def _chance(p: float) -> str:
    """`of 1,000 such answers whose source is missing, about 4 would look this strong`."""
    of = _OF
    while p * of < 0.95 and of < _MOST_OF:
        of *= 10
    count = max(1, round(p * of))
    return f"of {of:,} such answers whose source is missing, about {count:,} would look this strong"


def _noticed(verdict: Verdict) -> list[str]:
    if verdict.power is None:
        return []
    if verdict.power >= _NEARLY_ALL:
        return ["A source that is there would nearly always be noticed."]
    return [
        f"A source that is there would be noticed in {100 * verdict.power:.0f} of 100 such cases,"
        " so that one may be there and be missed."
    ]


def _loss(finding: Finding) -> str:
    return (
        f"Mean loss of the traced tokens {finding.mean_loss:.2f} nats, so that"
        f" {says_readily(finding)}."
    )


def _asked(finding: Finding) -> str:
    asking = finding.asking
    assert asking is not None
    against = (
        ""
        if asking.corpus_loss is None
        else (f"; the highest that is usual in the corpus is {asking.corpus_loss:.2f}")
    )
    better = "" if asking.option_loss is None else f"; with that option {asking.option_loss:.2f}"
    return f"Mean loss of the prompt {asking.prompt_loss:.2f} nats a token{against}{better}."


def _sentences(reasons: Sequence[str]) -> list[str]:
    return [
        f"{reason[:1].upper()}{reason[1:]}{'' if reason.endswith(('.', '!', '?')) else '.'}"
        for reason in reasons
    ]
