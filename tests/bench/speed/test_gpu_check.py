"""The check of a device, with the CPU in its place."""

from __future__ import annotations

import json
import sys

import pytest

from haiftrace.bench import gpu_check


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--shapes", ""])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_the_cpu_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run(monkeypatch, capsys)
    assert (code, report["broken"]) == (0, [])
    assert 0 < report["precision"]["float32"]["norms"] < 1e-4
    assert report["precision"]["float32"]["norms"] < report["precision"]["bfloat16"]["norms"] < 1
    assert report["traces"] == {"leaks": 2, "same_first_record": 2, "scores": 0.0}


def test_a_broken_bound_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gpu_check.BOUNDS, "bfloat16", {"cosines": 1e-6})
    monkeypatch.setattr(gpu_check, "SCORES", -1.0)
    code, report = run(monkeypatch, capsys)
    assert (code, report["broken"]) == (1, ["cosines in bfloat16", "scores"])
