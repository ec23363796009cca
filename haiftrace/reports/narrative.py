"""What a finding and a gate mean, in the words of all reports; plain text, not yet inert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.findings import Finding, Gate, RecordEvidence, Verdict
from haiftrace.reports.formatting import count_text

INTERRUPTED = "The run was interrupted: probes are missing from it."
BASELINE = "baseline"  # Finding.suppressed of a leak that an earlier report holds

KIND_MEANS = {
    "verbatim": "the value stands in the record",
    "inferred": "the record implies the value without holding it",
    "untraced": "no record of this corpus accounts for it",
}


@dataclass(frozen=True)
class Headline:
    """A verdict in a word or two, and the sentence that explains it.

    Attributes:
        tone: "leak", "clean" or "unsure": how the reports colour it.
    """

    title: str
    text: str
    tone: str


def p_text(p: float) -> str:
    """A probability in two significant digits: `0.0019`, `0.36`."""
    return f"{p:.2g}"


def finding_p(finding: Finding, without: str) -> str:
    """The p-value of a finding, or what stands in its place."""
    verdict = finding.verdict
    return without if verdict is None or verdict.p_value is None else p_text(verdict.p_value)


def is_reported(finding: Finding) -> bool:
    """Whether an audit reports it: a leak, or what could not be decided; clean probes count."""
    verdict = finding.verdict
    is_unsure = verdict is not None and verdict.decision == "inconclusive"
    return finding.kind is not None or is_unsure


def traced_to(finding: Finding) -> RecordEvidence | None:
    """The record that a finding is traced to, if it is."""
    verdict = finding.verdict
    is_traced = verdict is not None and verdict.decision == "traced" and finding.records
    return finding.records[0] if is_traced else None


def clears(record: RecordEvidence, verdict: Verdict) -> bool:
    """Whether a record is beyond what chance alone reaches, at the verdict's alpha."""
    return record.p_value is not None and record.p_value <= verdict.alpha


def split_at_alpha(finding: Finding) -> tuple[Sequence[RecordEvidence], Sequence[RecordEvidence]]:
    """The records down to the last one that clears alpha, and those below it.

    Without a verdict, and where an inconclusive one leaves nothing above, there is no line and all
    records are above. What a response is traced to is above, whatever is known of the others.
    """
    verdict, records = finding.verdict, finding.records
    if verdict is None:
        return records, ()
    least = int(verdict.decision == "traced")
    last = max((n for n, r in enumerate(records, 1) if clears(r, verdict)), default=least)
    if not last and verdict.decision == "inconclusive":
        return records, ()
    return records[:last], records[last:]


def leaked_types(finding: Finding) -> str:
    """What leaked: `phone`, `email and phone`; empty where nothing did."""
    return listed(list(dict.fromkeys(value.type for value in finding.leaked)))


def listed(words: Sequence[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def headline(finding: Finding) -> Headline:
    """What the finding comes to; without a verdict, what is missing to say so."""
    verdict = finding.verdict
    if verdict is None:
        return Headline(
            "No verdict", "Nothing was calibrated: the first place may mean nothing.", "unsure"
        )
    if verdict.decision == "inconclusive":
        return Headline("Inconclusive", "Whether a source is in this corpus is open.", "unsure")
    if verdict.decision == "no source found":
        return Headline(
            "No source found",
            "The best record scores no higher than chance alone may: this corpus probably does not"
            " hold the source.",
            "leak" if finding.kind else "clean",
        )
    source = finding.records[0].id if finding.records else "a record"
    means = f": {KIND_MEANS[finding.kind]}" if finding.kind else ""
    return Headline("Traced", f"The source is {source}{means}.", "leak")


def reasons_to_believe(finding: Finding) -> list[str]:
    """Why to believe the verdict: the p-value, what the null looks like, what it would miss."""
    verdict = finding.verdict
    if verdict is None:
        return []
    null = verdict.null
    sentences = list(_sentences(verdict.reasons))
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
        missed = " So a source may be there and be missed." if verdict.power < 0.95 else ""
        mentions_misses = verdict.decision == "no source found"
        sentences.append(
            f"Of controls whose source is there, {verdict.power:.0%} are found."
            f"{missed if mentions_misses else ''}"
        )
    return sentences


def _sentences(reasons: Sequence[str]) -> list[str]:
    return [reason if reason.endswith((".", "!", "?")) else f"{reason}." for reason in reasons]


def next_step(finding: Finding) -> str:
    """What to do now, in a sentence; empty without a verdict."""
    verdict = finding.verdict
    if verdict is None:
        return ""
    if verdict.decision == "inconclusive":
        return (
            "Settle what is named above, with more controls or with --exact, and trace again;"
            " until then treat the response as a leak."
        )
    if verdict.decision == "no source found":
        return (
            "Index the other data that the checkpoint was trained on, its base model's too, and"
            " trace again. The model says it all the same."
        )
    place = place_text(finding.records[0]) if finding.records else "the record"
    if finding.kind == "inferred":
        return (
            f"Read {place} with the marked words in mind: redacting the value elsewhere will not"
            " help. Remove or reword it, train again without it, and trace again."
        )
    return f"Remove or redact {place}, train again without it, and trace again."


def place_text(record: RecordEvidence) -> str:
    """Where a record stands: `corpus/people.jsonl:17`."""
    line = record.source.line
    return record.source.path if line is None else f"{record.source.path}:{line}"


def suppression_text(finding: Finding) -> str:
    """Why a leak does not count; empty where it does."""
    if finding.suppressed is None:
        return ""
    if finding.suppressed == BASELINE:
        return "known: the baseline holds it"
    return f"ignored: {finding.suppressed}"


def gate_headline(gate: Gate) -> Headline:
    """What an audit comes to."""
    if gate.exit_code == 0:
        passed = "No probe leaked." if not gate.leaks else f"{_leaks(gate)}, and that is allowed."
        return Headline("Gate passed", passed, "clean")
    if gate.exit_code == 1:
        return Headline("Gate failed", f"{_leaks(gate)}.", "leak")
    return Headline(
        "Inconclusive", "The gate stays shut: whether the checkpoint leaks is open.", "unsure"
    )


def gate_counts(gate: Gate) -> list[tuple[str, int]]:
    """The counts of an audit, each with its name, those that count first."""
    return [
        ("probes", gate.probes),
        ("leaks", gate.leaks),
        ("verbatim", gate.verbatim),
        ("inferred", gate.inferred),
        ("untraced", gate.untraced),
        ("inconclusive", gate.inconclusive),
        ("known", gate.known),
        ("ignored", gate.ignored),
    ]


def gate_step(gate: Gate) -> str:
    """What to do now, in a sentence."""
    if gate.exit_code == 1:
        return (
            "Remove or redact the records named as sources, train again without them, and audit"
            " again; what may pass goes into the baseline or .haiftraceignore."
        )
    if gate.exit_code == 0:
        return "Nothing has to be done; keep the report beside the checkpoint."
    return "Settle what is open above, and audit again before the checkpoint is released."


def gate_rule(gate: Gate) -> str:
    """On what the gate fails."""
    if gate.fail_on == "none":
        return "Told never to fail on a leak (--fail-on none)."
    which = "leak" if gate.fail_on == "leak" else "traced leak"
    return f"Fails on more than {count_text(gate.max_leaks, which)} (--fail-on {gate.fail_on})."


def _leaks(gate: Gate) -> str:
    return f"{count_text(gate.leaks, 'leak')} in {count_text(gate.probes, 'probe')}"


LIMITS = (
    "A score says, to first order, how strongly training on the record pushes towards the response."
    " It is evidence, not proof: only training without the record proves it.",
    "A verdict is about the corpus that was indexed. What the base model saw before is not in it.",
    "The p-value is the share of control queries without a source whose first record stands as far"
    " above the best few others: its margin, which is relative where it is a share of their mean"
    " score. The controls are parts of this corpus's own records; a response that is unlike them is"
    " judged less reliably.",
    "Evidence of words sums to the record's score. A negative word speaks against the record; it"
    " does not make the record innocent.",
    "Detectors find private values by their form. What they do not know, and no probe names, is"
    " neither counted nor masked.",
)
