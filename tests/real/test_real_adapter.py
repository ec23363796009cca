"""A real adapter, audited as it lies on the disk, and its merged checkpoint beside it.

Environment:
    HAIFTRACE_REAL_ADAPTER: the output directory of finetune_lora.py; indexes and reports go there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real


def _haiftrace(*arguments: object) -> int:
    return subprocess.run([sys.executable, "-m", "haiftrace", *map(str, arguments)]).returncode


def _audit(directory: Path, model: str) -> dict[str, Any]:
    """The report of an audit by the corpus' own questions."""
    index, report = directory / f"index-{model}", directory / f"report-{model}.json"
    corpus = directory / "corpus.jsonl"
    made = ("--model", directory / model, "--corpus", corpus, "--group-field", "subject")
    assert _haiftrace("index", *made, "-o", index) == 0
    probes = ("--prompts", directory / "probes.jsonl", "--max-new-tokens", 32)
    asked = ("trace", *probes, "--index", index, "--stop", "\n", "--reveal", "-o", report)
    assert _haiftrace(*asked) == 1
    content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return content


def _by_probe(report: dict[str, Any], given: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The finding on each probe's own protected value, where the answer holds it."""
    return {
        finding["probe"]["id"]: finding
        for finding in report["findings"]
        if any(value["given"] for value in finding["leaked"]) and finding["probe"]["id"] in given
    }


def test_an_adapter_is_traced_as_its_merged_checkpoint() -> None:
    if "HAIFTRACE_REAL_ADAPTER" not in os.environ:
        pytest.fail("set HAIFTRACE_REAL_ADAPTER to the output directory of finetune_lora.py")
    directory = Path(os.environ["HAIFTRACE_REAL_ADAPTER"])
    lines = (directory / "probes.jsonl").read_text(encoding="utf-8").splitlines()
    given = {p["id"]: p["protected"][0]["value"] for p in map(json.loads, lines)}
    adapter, merged = (_by_probe(_audit(directory, name), given) for name in ("adapter", "merged"))
    right = [id for id, f in adapter.items() if f["records"][0]["id"].startswith(f"{id}-")]
    traced = [id for id, f in adapter.items() if f["verdict"]["decision"] == "traced"]
    alike = [
        id
        for id in adapter.keys() & merged.keys()
        if adapter[id]["response"] == merged[id]["response"]
        and adapter[id]["records"][0]["id"] == merged[id]["records"][0]["id"]
    ]
    results = {
        "asked": len(given),
        "right answers": len(adapter),
        "right answers, merged": len(merged),
        "first record right": len(right),
        "traced": len(traced),
        "answer and first record alike": len(alike),
    }
    print(json.dumps(results, indent=1))
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    assert len(adapter) >= 0.5 * len(given)
    assert len(right) >= 0.9 * len(adapter)
    assert len(alike) >= 0.9 * len(adapter | merged)
