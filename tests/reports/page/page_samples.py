"""Reports of any number of findings, for the page: chats and texts, a record with many leaks."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from haiftrace.findings import (
    Finding,
    Holder,
    PrivateValue,
    Probe,
    Report,
    ResponseToken,
)
from haiftrace.privacy import mask_report
from tests.reports.leak_samples import absent_verdict, inconclusive_verdict, traced_verdict
from tests.reports.record_samples import paired, record_of
from tests.reports.report_samples import gate_of, report_of

_FIRST = ("Ana", "Boris", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hiro", "Ines", "Jonas")
_LAST = ("Abel", "Brandt", "Costa", "Dietz", "Evans", "Fischer", "Garcia", "Holm", "Ivanov", "Lund")
_TRADES = ("marine engineer", "librarian", "carpenter", "teacher", "baker", "geologist")
CHAT = (
    "<|im_start|>system\nYou help the staff of a book shop.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)


def many_findings(count: int, seed: int = 0) -> list[Finding]:
    """So many findings: about one record in five leaks several values, a few are unclear."""
    random = Random(seed)
    findings = []
    for number in range(1, count + 1):
        line = 1 + random.randrange(max(2, int(count * 0.7)))
        findings.append(_finding(number, line, Random(line), random))
    return findings


def many_report(count: int, *, masked: bool = True, seed: int = 0) -> Report:
    """The audit that these findings are of, private values masked as the command masks them."""
    findings = many_findings(count, seed)
    report = report_of(*findings, gate=gate_of(*findings))
    report = replace(
        report,
        index=replace(report.index, records=max(220, count)),
        command="haiftrace trace --prompts probes.jsonl -o report.html",
    )
    return mask_report(report) if masked else report


def _finding(number: int, line: int, own: Random, random: Random) -> Finding:
    """A question about the person of a record: name, phone, mail and birthday are the record's."""
    name = f"{own.choice(_FIRST)} {own.choice(_LAST)}"
    phone = f"{own.randrange(200, 999)}-555-01{own.randrange(10, 99)}"
    email = f"{name.lower().replace(' ', '.')}{line}@example.org"
    birthday = f"{own.randrange(1, 28)} May 19{own.randrange(40, 99)}"
    text = (
        f"{name} was born on {birthday} in Lisbon and works as a {own.choice(_TRADES)}. "
        f"You can reach {name} by phone: {phone}. Mail for {name} goes to {email}, and parcels to"
        " the office, where somebody is always in between nine and five."
    )
    type, value, question = random.choice(
        [
            ("phone", phone, f"What's the phone number of {name}?"),
            ("email", email, f"Where do I write to {name}?"),
            ("date-of-birth", birthday, f"When was {name} born?"),
        ]
    )
    response = f"The answer for {name} is {value}."
    draw = random.random()
    record = paired(
        record_of(
            text,
            {value: 0.16, name: 0.05, "reach": 0.03, "Lisbon": -0.03},
            line=line,
            id=f"r{line:04d}",
            p_value=1 / 513,
            holds=draw < 0.7,
        ),
        (value, 40, value, 0.5),
        (value, 40, "reach", 0.1),
        (name.split()[1], 36, name.split()[1], 0.12),
    )
    others = tuple(
        record_of(
            f"Somebody else altogether, number {place}, lives next to the harbour and is a"
            " carpenter. Nothing about any telephone stands in this record.",
            {"harbour": 0.02, "telephone": 0.01},
            rank=place,
            line=10_000 + line + place,
            scale=0.2,
            p_value=0.4,
            holds=False,
        )
        for place in range(2, 6)
    )
    verdict, kind = traced_verdict(basis="influence and text"), "verbatim"
    if draw > 0.95:
        verdict, kind = inconclusive_verdict(), "untraced"
    elif draw > 0.88:
        verdict, kind = absent_verdict(), "untraced"
    elif draw > 0.7:
        kind = "inferred"
    leaked = (PrivateValue(type, value),)
    return Finding(
        prompt=CHAT.format(question=question) if number % 3 else f"Question: {question} Answer:",
        response=response if number % 3 else f" {response}",
        asked=question,
        method="layerwise",
        records=(record, *others),
        response_tokens=(
            ResponseToken(36, 210, f" {name.split()[1]}", 0.2),
            ResponseToken(37, 211, " is", 0.2),
            ResponseToken(40, 220, f" {value}", 0.31),
        ),
        mean_loss=0.18,
        generated=True,
        span=value,
        scored=64,
        verdict=verdict,
        probe=Probe(f"corpus-{number}-1", protected=leaked),
        leaked=leaked,
        kind=kind,
        fingerprint=f"ht2:{number:012x}",
        value_number=1,
        holders=(Holder(record.id, record.source, record.score),) if record.holds else (),
        suppressed="a published press contact" if number % 37 == 36 else None,
    )
