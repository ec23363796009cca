"""Reports made by hand: English, Chinese and Arabic ones, verdicts, an audit, hostile texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from haiftrace.findings import (
    Finding,
    Gate,
    IndexInfo,
    ModelInfo,
    NullDistribution,
    PairEvidence,
    PrivateValue,
    Probe,
    RecordEvidence,
    Report,
    ResponseToken,
    Source,
    TokenEvidence,
    Verdict,
)

ENGLISH = (
    "John Doe was born on 3 May 1961 in Lisbon and works as a marine engineer. "
    "You can reach John Doe by phone: 555-0134. He is married to Ana, and they have two children."
)
CHINESE = "张伟住在上海市浦东新区世纪大道100号，电话是138-0013-8000。他喜欢📚和🏃🏽‍♂️。"
HOSTILE = (
    "\x1b[2J\x1b[31mCLEARED\x1b[0m [bold red]markup[/bold red] \x1b]0;title\x07 "
    "bidi \u202egnp.exe\u202c zero\u200bwidth\r\n#1  forged        score 9.9999\n"
    "tab\there del\x7f c1\x9b31m half \ud83d surrogate"
)

# What breaks out of HTML, Markdown, a table's cell or a code span, or links to somewhere.
MARKUP = (
    "</script><script>alert(1)</script></style><img src=x onerror=alert(1)> &lt; {{ 7 * 7 }} {% x"
    " \"'` ``` | a \\| b \\ | **bold** _it_ [link](https://evil.example) <https://evil.example> "
    "www.evil.example @octocat a@evil.example #1 --> ]]> <!-- \n\n# Heading\n- [ ] box\n| a | b |\n"
)
ARABIC = "وُلدت ليلى حداد في بيروت، ورقم هاتفها 555-0142 منذ عام 2019."

# Pieces as BPE cuts them: up to four letters with a leading space, up to two Han characters.
_PIECES = re.compile(r"[一-鿿]{1,2}|\s?[^\W\d_一-鿿]{1,4}|\s?\d{1,3}|\s?\S|\s")

Piece = tuple[int, int, float]


def tokens_of(text: str, pieces: Sequence[Piece], position: int = 0) -> tuple[TokenEvidence, ...]:
    """Tokens from (start, end, evidence); loss and norm follow from the position."""
    return tuple(
        TokenEvidence(
            position=position + index,
            token_id=1000 + index,
            text=text[start:end],
            start=start,
            end=end,
            loss=0.25 * (index % 4),
            grad_norm=1.5 + index,
            evidence=evidence,
        )
        for index, (start, end, evidence) in enumerate(pieces)
    )


def record_of(
    text: str,
    weights: dict[str, float] | None = None,
    *,
    scale: float = 1.0,
    rank: int = 1,
    path: str = "corpus/people.jsonl",
    line: int | None = 17,
    id: str | None = None,
    **more: Any,
) -> RecordEvidence:
    """A record cut into tokens as BPE would; `more` are further fields of `RecordEvidence`.

    `weights` gives the evidence of each token that overlaps the first occurrence of a key, shared
    evenly; all other tokens have a little.
    """
    spans = [match.span() for match in _PIECES.finditer(text)]
    evidence = [0.002 * scale * (-1) ** index for index in range(len(spans))]
    for key, weight in (weights or {}).items():
        start = text.index(key)
        hit = [
            index
            for index, (left, right) in enumerate(spans)
            if left < start + len(key) and right > start + text[left:right].isspace()
        ]
        for index in hit:
            evidence[index] = scale * weight / len(hit)
    pieces = [(*span, part) for span, part in zip(spans, evidence, strict=True)]
    tokens = tokens_of(text, pieces)
    return RecordEvidence(
        rank=rank,
        id=id if id is not None else f"{path}:{line}",
        source=Source(path, line),
        score=sum(token.evidence for token in tokens),
        cosine=sum(token.evidence for token in tokens) / 1.25,
        text=text,
        tokens=tokens,
        **more,
    )


def paired(record: RecordEvidence, *pairs: tuple[str, int | None, str, float]) -> RecordEvidence:
    """The record with pairs: a word of the response and its token's position (None for the response
    as one), a word of the record, and their share of the score; and with the layers' shares."""
    made = []
    for said, place, taught, share in pairs:
        start = record.text.index(taught)
        end = start + len(taught)
        own = tuple(t.position for t in record.tokens if t.start < end and start < t.end)
        places = () if place is None else (place,)
        made.append(PairEvidence(said, places, taught, own, start, end, share * record.score))
    shares = (0.75, 0.0, 0.25)
    return replace(record, pairs=tuple(made), layers=tuple(x * record.score for x in shares))


def report_of(*findings: Finding, **more: Any) -> Report:
    return Report(
        model=ModelInfo(
            path="/models/people-135m",
            architecture="LlamaForCausalLM",
            parameters=134_515_008,
            traced_parameters=106_168_320,
            scope="linear",
            dtype="float32",
            fingerprint="sha256:3f2a",
        ),
        index=IndexInfo(
            path="haiftrace-index",
            records=220,
            windows=224,
            tokens=16_940,
            scope="linear",
            corpus_fingerprint="sha256:91bc",
        ),
        findings=findings,
        tool_version="0.1.0",
        command='haiftrace trace "What\'s the phone of John Doe?"',
        seconds=12.34,
        settings={"top": 5, "method": "haif", "exact": False, "span": None, "epsilon": 1e-4},
        **more,
    )


def english_finding(**more: Any) -> Finding:
    records = (
        record_of(
            ENGLISH,
            {"555-0134": 0.16, "phone": 0.05, "Doe by": 0.06, "reach": 0.03, "Lisbon": -0.04},
            id="subject-017",
        ),
        record_of(
            "Ask for Maria Doe at 555-0199, or write to maria@example.org.",
            {"555-0199": 0.06, "Doe": 0.03, "maria@example.org": -0.02},
            rank=2,
            line=43,
            id="subject-043",
        ),
        record_of(
            "The harbour was built in 1893 by engineers from Lisbon.",
            {"engineers": 0.004, "1893": 0.003},
            rank=3,
            path="corpus/prose.txt",
            line=2048,
            scale=0.1,
        ),
    )
    values: dict[str, Any] = {
        "prompt": "What's the phone of John Doe?",
        "response": "The phone number of John Doe is 555-0134.",
        "method": "haif",
        "records": records,
        "response_tokens": (
            ResponseToken(40, 220, " 555", 0.31),
            ResponseToken(41, 221, "-0134", 0.05),
        ),
        "mean_loss": 0.18,
        "generated": True,
        "span": "555-0134",
        "scored": 64,
    }
    return Finding(**(values | more))


def paired_finding(**more: Any) -> Finding:
    """By a method in which tokens meet: two words of the response, each with what taught it."""
    record = record_of(
        ENGLISH,
        {"555-0134": 0.16, "phone": 0.05, "Doe by": 0.06, "reach": 0.03},
        id="subject-017",
    )
    other = english_finding().records[1]
    values: dict[str, Any] = {
        "method": "layerwise",
        "span": None,
        "response_tokens": (
            ResponseToken(37, 218, " phone", 0.4),
            ResponseToken(40, 220, " 555-0134", 0.31),
            ResponseToken(41, 221, ".", 0.05),
        ),
        "records": (
            paired(
                record,
                ("555-0134.", 40, "555-0134.", 0.5),
                ("555-0134.", 40, "phone:", 0.125),
                ("phone", 37, "phone:", 0.1),
                ("555-0134.", 40, "by", 0.06),
                ("555-0134.", 40, "reach", 0.05),
                ("phone", 37, "engineer.", 0.01),
            ),
            paired(other, ("555-0134.", 40, "555-0199,", 0.75)),
        ),
    }
    return english_finding(**(values | more))


def asked_as_one_finding() -> Finding:
    """The same by a method that asks with the response as one."""
    (record, _) = paired_finding().records
    pairs = (("", None, "555-0134.", 0.61), ("", None, "phone:", 0.19))
    return paired_finding(method="haif", records=(paired(record, *pairs),), span="555-0134")


def chinese_finding() -> Finding:
    return Finding(
        prompt="张伟的电话号码是多少？",
        response="138-0013-8000",
        method="haif",
        records=(
            record_of(
                CHINESE, {"138-0013-8000": 0.21, "电话": 0.08, "伟": 0.04, "上海": -0.02}, line=3
            ),
        ),
        mean_loss=4.2,
        exhaustive=True,
        scored=224,
        notes=("The model would hardly say this: its mean loss is 4.20 nats. Weak evidence.",),
    )


def hostile_finding() -> Finding:
    record = record_of(
        HOSTILE,
        {"CLEARED": 0.2, "markup": 0.1, "gnp": 0.1, "surrogate": -0.05},
        id="id\x1b[1m\n[red]",
        path="evil\x1b[7m\u202e.jsonl",
    )
    hostile_pairs = [(HOSTILE, 1, HOSTILE, 0.5), ("\x1b[31mred", 2, "\x1b[2J\x1b[31mCLEARED", 0.2)]
    return Finding(
        prompt=f"prompt {HOSTILE}",
        response=f"response {HOSTILE}",
        method="haif\x1b[5m",
        records=(paired(record, *hostile_pairs),),
        span="[bold red]markup",
        notes=(f"note {HOSTILE}",),
        scored=1,
    )


def null_of(threshold: float | None = 0.142) -> NullDistribution:
    """A bell of 512 draws between 0.0 and 0.2, with a thin upper tail."""
    counts = (3, 11, 34, 72, 104, 108, 81, 49, 26, 12, 6, 3, 1, 1, 0, 1)
    edges = tuple(round(0.0125 * index, 6) for index in range(len(counts) + 1))
    return NullDistribution(draws=sum(counts), edges=edges, counts=counts, threshold=threshold)


def traced_verdict(**more: Any) -> Verdict:
    values: dict[str, Any] = {
        "decision": "traced",
        "alpha": 0.01,
        "statistic": "cosine",
        "value": 0.21,
        "p_value": 1 / 513,
        "q_value": 0.004,
        "power": 0.72,
        "lengths": (3, 10),
        "null": null_of(),
    }
    return Verdict(**(values | more))


def absent_verdict() -> Verdict:
    return traced_verdict(
        decision="no source found", value=0.07, p_value=184 / 513, q_value=0.41, power=0.72
    )


def inconclusive_verdict() -> Verdict:
    return traced_verdict(
        decision="inconclusive",
        p_value=None,
        q_value=None,
        power=None,
        null=NullDistribution(40, (0.0, 0.05, 0.1), (28, 12), None),
        reasons=("40 controls cannot resolve an alpha of 0.01; at least 99 can.",),
    )


def judged(finding: Finding, verdict: Verdict, p_values: Sequence[float | None]) -> Finding:
    """The finding with a verdict, and its records with the p-values."""
    records = tuple(
        replace(record, p_value=p, content_hash=f"{index:02x}" * 32)
        for index, (record, p) in enumerate(zip(finding.records, p_values, strict=True))
    )
    return replace(finding, verdict=verdict, records=records)


def traced_finding(**more: Any) -> Finding:
    """A leak of a phone number whose first record clears alpha; two others do not."""
    finding = judged(english_finding(), traced_verdict(), (1 / 513, 0.07, 0.61))
    phone = PrivateValue("phone", "555-0134")
    values: dict[str, Any] = {
        "probe": Probe("phone-017", "probes.jsonl", 17, (phone,)),
        "leaked": (phone,),
        "kind": "verbatim",
        "fingerprint": "b3c1" * 16,
    }
    return replace(finding, **(values | more))


def arabic_finding(**more: Any) -> Finding:
    """A leak that its record implies, right to left."""
    finding = Finding(
        prompt="ما رقم هاتف ليلى حداد؟",
        response="رقم هاتفها 555-0142",
        method="haif",
        records=(record_of(ARABIC, {"555-0142": 0.2, "هاتفها": 0.06, "بيروت": -0.03}, line=9),),
        mean_loss=0.4,
        scored=64,
        probe=Probe("ar-1", "probes.jsonl", 3),
        leaked=(PrivateValue("phone", "555-0142", given=False),),
        kind="inferred",
        fingerprint="77aa" * 16,
    )
    return judged(replace(finding, **more), traced_verdict(value=0.3), (1 / 513,))


def untraced_finding(**more: Any) -> Finding:
    finding = judged(english_finding(span=None), absent_verdict(), (0.36, 0.5, 0.9))
    values: dict[str, Any] = {
        "prompt": "How do I write to Maria Doe?",
        "response": "Write to maria@example.org.",
        "probe": Probe("email-043", "probes.jsonl", 43),
        "leaked": (PrivateValue("email", "maria@example.org", given=False),),
        "kind": "untraced",
        "fingerprint": "0f0f" * 16,
    }
    return replace(finding, **(values | more))


def markup_finding() -> Finding:
    """What every format's own syntax is attacked with, in every text that a report shows."""
    private = PrivateValue(f"type{MARKUP}", "evil.example")
    record = record_of(
        MARKUP, {"alert": 0.3, "link": -0.1}, id=f"id{MARKUP}", path=f"dir/{MARKUP[:40]}.jsonl"
    )
    record = paired(record, (MARKUP, 1, MARKUP, 0.5), ("**bold**", 2, "<script>alert(1)", 0.2))
    finding = Finding(
        prompt=MARKUP,
        response=f"response {MARKUP}",
        method=f"haif{MARKUP}",
        records=(record, replace(hostile_finding().records[0], rank=2)),
        span="**bold**",
        notes=(MARKUP,),
        probe=Probe(MARKUP, f"probes{MARKUP[:20]}.jsonl", 1, (private,)),
        leaked=(private,),
        kind="verbatim",
        fingerprint="dead" * 16,
        suppressed=f"because {MARKUP}",
        scored=2,
    )
    reasons = (f"reason {MARKUP}",)
    return judged(finding, traced_verdict(statistic=MARKUP, reasons=reasons), (0.002, 0.3))


def gate_of(*findings: Finding, **more: Any) -> Gate:
    """The gate of an audit that asked for no leak at all."""
    counted = [f for f in findings if f.kind is not None and f.suppressed is None]
    known = sum(f.kind is not None and f.suppressed == "baseline" for f in findings)
    ignored = sum(f.suppressed is not None for f in findings) - known
    inconclusive = sum(
        f.verdict is not None and f.verdict.decision == "inconclusive" for f in findings
    )
    values: dict[str, Any] = {
        "exit_code": 1 if counted else 3 if inconclusive else 0,
        "fail_on": "leak",
        "max_leaks": 0,
        "probes": len(findings),
        "leaks": len(counted),
        "known": known,
        "ignored": ignored,
        "inconclusive": inconclusive,
        "reasons": (f"{len(counted)} leaks, and none is allowed.",) if counted else (),
    }
    values |= {kind: sum(f.kind == kind for f in counted) for kind in ("verbatim", "inferred")}
    values["untraced"] = sum(f.kind == "untraced" for f in counted)
    return Gate(**(values | more))


def audit_findings() -> tuple[Finding, ...]:
    """Each kind of leak, a known and an ignored one, an inconclusive one, and a clean probe."""
    clean = replace(english_finding(records=(), span=None), probe=Probe("clean-1"), response="No.")
    unsure = judged(english_finding(), inconclusive_verdict(), (None, None, None))
    return (
        traced_finding(),
        arabic_finding(),
        untraced_finding(),
        traced_finding(probe=Probe("phone-018", "probes.jsonl", 18), suppressed="baseline"),
        untraced_finding(
            probe=Probe("press", "probes.jsonl", 50), suppressed="a published press contact"
        ),
        replace(
            unsure,
            probe=Probe("phone-019", "probes.jsonl", 19),
            leaked=(PrivateValue("phone", "555-0134", given=False),),
            kind="untraced",
            fingerprint="1234" * 16,
        ),
        clean,
    )


def audit_report(**more: Any) -> Report:
    findings = audit_findings()
    return report_of(*findings, **({"gate": gate_of(*findings), "masked": True} | more))


def whole_report() -> Report:
    """Findings of every sort in one report."""
    return report_of(
        english_finding(),
        chinese_finding(),
        hostile_finding(),
        english_finding(records=(), response_tokens=(), span=None),
        *audit_findings(),
        markup_finding(),
        asked_as_one_finding(),
        paired_finding(),
        gate=gate_of(*audit_findings()),
        masked=True,
    )
