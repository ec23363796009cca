"""What a finding and a gate mean, in the words of all reports; plain text, not yet inert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.findings import Finding, RecordEvidence, Source, Verdict
from haiftrace.gate_outcome import Gate
from haiftrace.reports.evidence_words import NAMED_FIRST, NEARLY, UNSAID, evidence_in_words
from haiftrace.reports.formatting import count_text, listed

_MOST_NAMED = 8
"""Records that a sentence names."""
INTERRUPTED = "The run was interrupted: probes are missing from it."
BASELINE = "baseline"  # Finding.suppressed of a leak that an earlier report holds

NOT_IN_CORPUS = "said, not in this corpus"
KIND_MEANS = {
    "verbatim": "the value stands in the record",
    "inferred": "the record implies the value without holding it",
    "attributed": "it taught the value, which stands in other records",
    "untraced": "no record of this corpus accounts for it",
    "not-in-corpus": "no record of this corpus holds it, and no probe protects it",
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


def kind_text(finding: Finding) -> str:
    """The class of a leak, or for what is none its verdict, in words."""
    if finding.kind == "not-in-corpus":
        return NOT_IN_CORPUS
    return finding.kind or headline(finding).title.lower()


def is_reported(finding: Finding) -> bool:
    """Whether an audit reports it: a leak, or what could not be decided; clean probes count."""
    verdict = finding.verdict
    is_unsure = verdict is not None and verdict.decision == "inconclusive"
    return finding.kind is not None or is_unsure


def traced_to(finding: Finding) -> RecordEvidence | None:
    """The ranked record that a finding is traced to, if it is: by text the first that holds it."""
    verdict = finding.verdict
    if verdict is None or verdict.decision != "traced":
        return None
    by_text = verdict.basis == "text"
    named = (record for record in finding.records if record.holds or not by_text)
    return next(named, None)


def clears(record: RecordEvidence, finding: Finding) -> bool:
    """Whether a record is named: it holds what was traced, or is beyond what chance alone reaches.

    Records on others that are worded like the source come near it, so that where records hold the
    value, a further one that does not is no source for its score alone.
    """
    if record.holds:
        return True
    verdict = finding.verdict
    assert verdict is not None
    is_beyond = record.p_value is not None and record.p_value <= verdict.alpha
    return is_beyond and (not finding.holders or record.rank == 1)


def holders_text(finding: Finding) -> str:
    """Where what was traced stands: `It stands in 3 records: r022, r047 and r134.`"""
    holders = finding.holders
    if holders is None:
        return ""
    if not holders:
        return "No indexed record holds it, in any spelling."
    names = [holder.id for holder in holders[:_MOST_NAMED]]
    more = len(holders) - len(names)
    listed_names = listed([*names, f"{more:,} more"] if more else names)
    return f"It stands in {count_text(len(holders), 'record')}: {listed_names}."


def split_at_alpha(finding: Finding) -> tuple[Sequence[RecordEvidence], Sequence[RecordEvidence]]:
    """The records down to the last one that clears alpha, and those below it.

    Without a verdict, and where an inconclusive one leaves nothing above, there is no line and all
    records are above. What a response is traced to is above, whatever is known of the others.
    """
    verdict, records = finding.verdict, finding.records
    if verdict is None:
        return records, ()
    least = int(verdict.decision == "traced")
    last = max((n for n, r in enumerate(records, 1) if clears(r, finding)), default=least)
    if not last and verdict.decision == "inconclusive":
        return records, ()
    return records[:last], records[last:]


def frequency_text(finding: Finding) -> str:
    """How often it is said: `in 7 of 20 answers drawn at temperature 0.8, and in the greedy one`;
    empty where none were drawn.
    """
    frequency = finding.frequency
    if frequency is None:
        return ""
    greedy = ", and in the greedy one" if frequency.greedy else ", not in the greedy one"
    return (
        f"in {frequency.said:,} of {count_text(frequency.sampled, 'answer')} drawn at temperature"
        f" {frequency.temperature:g}{greedy}"
    )


def leaked_types(finding: Finding) -> str:
    """What leaked: `phone`, `email and phone`; empty where nothing did."""
    return listed(list(dict.fromkeys(value.type for value in finding.leaked)))


def headline(finding: Finding) -> Headline:
    """What the finding comes to; without a verdict, what is missing to say so."""
    verdict = finding.verdict
    if verdict is None:
        return Headline(
            "No verdict", "Nothing was calibrated: the first place may mean nothing.", "unsure"
        )
    if verdict.decision == "inconclusive":
        return Headline("Inconclusive", "Whether a source is in this corpus is open.", "unsure")
    if verdict.decision == "no source found" and finding.holders == ():
        return Headline(
            "No source found",
            "No indexed record holds it, in any spelling, and none taught it beyond what"
            " chance explains: it is made up, or learnt from other data.",
            "leak" if finding.kind else "clean",
        )
    if verdict.decision == "no source found":
        return Headline(
            "No source found",
            "The best record scores no higher than chance alone may: this corpus probably does not"
            " hold the source.",
            "leak" if finding.kind else "clean",
        )
    if verdict.basis == "text":
        several = len(finding.holders or ()) > 1
        unsaid = "which of them taught it most" if several else "how much it taught"
        return Headline(
            "Traced",
            f"{holders_text(finding)} Chance does not explain that; {unsaid}, influence does not"
            " tell.",
            "leak",
        )
    source = finding.records[0].id if finding.records else "a record"
    means = f": {KIND_MEANS[finding.kind]}" if finding.kind else ""
    return Headline("Traced", f"The source is {source}{means}.", "leak")


def reasons_to_believe(finding: Finding) -> list[str]:
    """Why to believe the verdict, in words: how strong the evidence is, and where the value stands.

    The figures behind them are `haiftrace.reports.evidence_words.statistics`.
    """
    verdict = finding.verdict
    if verdict is None:
        return []
    sentences = evidence_in_words(finding)
    in_headline = verdict.basis == "text" or verdict.decision == "no source found"
    if finding.holders is not None and not in_headline:
        sentences.append(holders_text(finding))
    return sentences


def asking_notes(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """What is to be said of how the model was asked, once for all, and the option or ""."""
    said = (finding.asking for finding in findings if finding.asking is not None)
    return list(dict.fromkeys((asking.note, asking.option or "") for asking in said))


def next_step(finding: Finding) -> str:
    """What to do now, in a sentence; empty without a verdict."""
    verdict = finding.verdict
    if verdict is None:
        return ""
    again = ""
    if finding.asking is not None and finding.asking.option is not None:
        again = "First ask again as the warning says. "
    if verdict.decision == "inconclusive":
        return again + _open_step(finding, verdict)
    if verdict.decision == "no source found":
        return (
            f"{again}Index the other data that the checkpoint was trained on, its base model's too,"
            " and trace again. The model says it all the same."
        )
    holders = finding.holders or ()
    if holders and finding.kind not in ("inferred", "attributed"):
        which = "them" if len(holders) > 1 else "it"
        where = _holder_places(finding)
        return f"Remove or redact {where}, train again without {which}, and trace again."
    place = place_text(finding.records[0]) if finding.records else "the record"
    if finding.kind in ("inferred", "attributed"):
        return (
            f"Read {place} with the marked words in mind: redacting the value elsewhere will not"
            " help. Remove or reword it, train again without it, and trace again."
        )
    return f"Remove or redact {place}, train again without it, and trace again."


def _open_step(finding: Finding, verdict: Verdict) -> str:
    """What settles an inconclusive verdict; more controls only where these are what it lacks."""
    until = "Until then treat the response as a leak."
    if UNSAID in verdict.reasons:
        return (
            "Find out where this answer is from: which prompt, settings and version of the model"
            f" gave it. Asked so, the model hardly would, and no calibration changes that. {until}"
        )
    if finding.holders:
        return (
            f"Read {_holder_places(finding)}, where the value stands, and decide whether it is this"
            f" one; to remove or redact it there is the safe course. {until}"
        )
    if any(NAMED_FIRST in reason for reason in verdict.reasons):
        return (
            f"Read {source_text(finding.records[0].source)}, which influence names: the model may"
            f" have garbled what it states, or have the value from another corpus. {until}"
        )
    if finding.records and any(reason.startswith(NEARLY) for reason in verdict.reasons):
        return (
            f"Read {source_text(finding.records[0].source)}, which stands out, and trace more of"
            f" the answer at once (--whole, or a longer --span), which tells more. {until}"
        )
    if verdict.p_value is not None and verdict.p_value > verdict.alpha:
        return (  # calibrated, and yet no verdict: a source of this length would hardly be noticed
            "Trace more of the answer at once (--whole, or a longer --span), as there is too little"
            f" of it to tell. {until}"
        )
    return (
        "Settle what is named above, with more controls or with --exact, and trace again; until"
        " then treat the response as a leak."
    )


def _holder_places(finding: Finding) -> str:
    holders = finding.holders or ()
    places = [source_text(holder.source) for holder in holders[:_MOST_NAMED]]
    more = len(holders) - len(places)
    return listed([*places, f"{more:,} more"] if more else places)


def place_text(record: RecordEvidence) -> str:
    """Where a record stands: `corpus/people.jsonl:17`."""
    return source_text(record.source)


def source_text(source: Source) -> str:
    """A place in the corpus: `corpus/people.jsonl:17`."""
    return source.path if source.line is None else f"{source.path}:{source.line}"


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
        passing = gate.known + gate.ignored
        if gate.leaks:
            passed = f"{_leaks(gate)}, and that is allowed."
        elif passing:
            passed = f"No new leak; {count_text(passing, 'accepted leak')} as before."
        else:
            passed = "No probe leaked."
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
        ("attributed", gate.attributed),
        ("untraced", gate.untraced),
        (NOT_IN_CORPUS, gate.not_in_corpus),
        ("inconclusive", gate.inconclusive),
        ("known", gate.known),
        ("ignored", gate.ignored),
    ]


def gate_step(gate: Gate) -> str:
    """What to do now, in a sentence."""
    if gate.exit_code == 1:
        return (
            "Remove or redact the records named as sources (--sources FILE, then haiftrace redact),"
            " train again without them, and audit again; what may pass goes into the baseline or"
            " .haiftraceignore."
        )
    if gate.exit_code == 0 and gate.leaks + gate.known + gate.ignored:
        return (
            "The checkpoint says these values all the same: whoever asks gets them. Remove the"
            " records named as sources and train again, or keep the report with the checkpoint as"
            " what was accepted."
        )
    if gate.exit_code == 0:
        return "Nothing has to be done; keep the report beside the checkpoint."
    return "Settle what is open above, and audit again before the checkpoint is released."


def gate_rule(gate: Gate) -> str:
    """On what the gate fails."""
    if gate.fail_on == "none":
        return "Told never to fail on a leak (--fail-on none)."
    names = {"leak": "leak", "known-value": "known-value leak", "traced": "traced leak"}
    which = names[gate.fail_on]
    return f"Fails on more than {count_text(gate.max_leaks, which)} (--fail-on {gate.fail_on})."


def _leaks(gate: Gate) -> str:
    return f"{count_text(gate.leaks, 'leak')} in {count_text(gate.probes, 'probe')}"


LIMITS = (
    "A score says, to first order, how strongly training on the record pushes towards the response."
    " It is evidence, not proof: only training without the record proves it.",
    "A verdict is about the corpus that was indexed. What the base model saw before is not in it.",
    "How strong the evidence is, control queries say: answers whose source was left out of the"
    " search, and how far their first records stand out all the same. They are parts of this"
    " corpus's own records; a response that is unlike them is judged less reliably.",
    "Evidence of words sums to the record's score. A negative word speaks against the record; it"
    " does not make the record innocent.",
    "Detectors find private values by their form. What they do not know, and no probe names, is"
    " neither counted nor masked.",
)
