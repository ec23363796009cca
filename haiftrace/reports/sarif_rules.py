"""The classes of leaks as rules of SARIF: how severe each is, and what is to be done."""

from __future__ import annotations

from typing import Any, NamedTuple

from haiftrace.findings import Kind
from haiftrace.reports.narrative import KIND_MEANS

KINDS: tuple[Kind, ...] = ("verbatim", "inferred", "attributed", "untraced", "not-in-corpus")


class LeakRule(NamedTuple):
    """Of a class of leaks: id, name, severity from 0 to 10, level, precision, what to do."""

    id: str
    title: str
    severity: str
    level: str
    precision: str
    remedy: str


RULES: dict[Kind, LeakRule] = {
    "verbatim": LeakRule(
        "leak/verbatim",
        "VerbatimLeak",
        "8.5",
        "error",
        "high",
        "Remove or redact the record, train again without it, and audit again.",
    ),
    "inferred": LeakRule(
        "leak/inferred",
        "InferredLeak",
        "7.5",
        "error",
        "high",
        "Reword or remove the record: redacting the value elsewhere does not help. Then train again"
        " without it, and audit again.",
    ),
    "attributed": LeakRule(
        "leak/attributed",
        "AttributedLeak",
        "7.5",
        "error",
        "high",
        "Reword or remove the record, and look at the records that hold the value, too. Then train"
        " again without them, and audit again.",
    ),
    "untraced": LeakRule(
        "leak/untraced",
        "UntracedLeak",
        "6.5",
        "warning",
        "medium",
        "Index the other data that the checkpoint was trained on, its base model's too, and audit"
        " again. The checkpoint says the value all the same.",
    ),
    "not-in-corpus": LeakRule(
        "leak/not-in-corpus",
        "SaidNotInCorpus",
        "3.0",
        "note",
        "low",
        "Find out whether the value is somebody's: it may be made up, or learnt from other data."
        " What is known to be private goes into the probes as protected; what may be said goes into"
        " --allow.",
    ),
}


def described(kind: Kind) -> dict[str, Any]:
    """The rule as SARIF describes it."""
    rule = RULES[kind]
    means = KIND_MEANS[kind]
    described = f"The checkpoint answers with a private value, and {means}."
    return {
        "id": rule.id,
        "name": rule.title,
        "shortDescription": {"text": f"Private value leaked: {means}."},
        "fullDescription": {"text": described},
        "help": {"text": rule.remedy, "markdown": rule.remedy},
        "defaultConfiguration": {"level": rule.level},
        "properties": {
            "security-severity": rule.severity,
            "precision": rule.precision,
            "problem.severity": "recommendation" if rule.level == "note" else rule.level,
            "tags": ["security", "privacy", "machine-learning"],
        },
    }
