"""Reports made by hand: a plain English one, a Chinese one, and one that attacks its reader."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from haiftrace.findings import (
    Finding,
    IndexInfo,
    ModelInfo,
    RecordEvidence,
    Report,
    ResponseToken,
    Source,
    TokenEvidence,
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


def report_of(*findings: Finding, **more: Any) -> Report:
    return Report(
        model=ModelInfo(
            path="/models/people-135m",
            architecture="LlamaForCausalLM",
            parameters=134_515_008,
            traced_parameters=106_168_320,
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
    return Finding(
        prompt=f"prompt {HOSTILE}",
        response=f"response {HOSTILE}",
        method="haif\x1b[5m",
        records=(
            record_of(
                HOSTILE,
                {"CLEARED": 0.2, "markup": 0.1, "gnp": 0.1, "surrogate": -0.05},
                id="id\x1b[1m\n[red]",
                path="evil\x1b[7m\u202e.jsonl",
            ),
        ),
        span="[bold red]markup",
        notes=(f"note {HOSTILE}",),
        scored=1,
    )
