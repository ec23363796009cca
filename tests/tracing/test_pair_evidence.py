"""Which word of the answer was taught by which word of the record, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.tracing.evidence import word_pairs


def scored(text, offsets, pairs, start=0):
    """Pairs made by hand, over a window of these tokens."""
    window = SimpleNamespace(text=text, offsets=offsets, start=start)
    total = np.sum(list(pairs.values()), 0)
    return ScoredWindow(window, float(total.sum()), None, total, pairs)


def test_pieces_and_special_tokens_by_hand():
    text = "Ann moved on Halloween."
    offsets = [(0, 0), (0, 3), (3, 9), (9, 12), (12, 18), (18, 22), (22, 23)]
    query = SimpleNamespace(
        text="When? October 31",
        offsets=[(0, 4), (4, 5), (5, 9), (9, 13), (13, 16)],
    )
    pairs = {
        2: np.array([0.0, 0.5, 0.0, 0.0, 2.0, 1.0, 0.0]),
        3: np.array([0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5]),
        4: np.array([0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0]),
    }
    evidence = word_pairs(scored(text, offsets, pairs, start=40), query)
    shown = [(p.response_text, p.record_text, p.evidence) for p in evidence]
    assert shown == [
        ("October", "Halloween.", 4.5),
        ("31", "Halloween.", 3.0),
        ("October", "Ann", 0.5),
        ("October", "", 0.25),
    ]
    strongest, special = evidence[0], evidence[-1]
    assert (strongest.response_positions, strongest.record_positions) == ((2, 3), (44, 45, 46))
    assert text[strongest.start : strongest.end] == "Halloween."
    assert (special.record_positions, special.start, special.end) == ((40,), 0, 0)
    assert word_pairs(ScoredWindow(SimpleNamespace(), 1.0, None, np.ones(1)), query) == []
