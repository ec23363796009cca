"""Look-ups in a real index stay quick, exact and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.lookup_scale import costs


@pytest.mark.slow
def test_looking_up_costs_little(tmp_path: Path) -> None:
    """`costs` itself compares what is found with what reading every record finds."""
    row = costs(tmp_path, records=500, controls=0, values=30)
    assert row["without_holder"] == 0
    assert row["holders"] >= row["values"]
    assert row["largest_ms"] < 250
    assert row["together_ms"] < 2_000
    assert row["keys_mb"] * 1e6 < 2_000 * row["records"]
    assert max(row["index_peak_mb"], row["trace_peak_mb"]) < 1_500
