"""Findings made by hand, without a verdict: English, Chinese and hostile ones, and with pairs."""

from __future__ import annotations

from typing import Any

from haiftrace.findings import Finding, ResponseToken
from tests.reports.record_samples import CHINESE, ENGLISH, HOSTILE, paired, record_of


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
    """By a method that scores pairs of tokens: two words of the response, each with its sources."""
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
