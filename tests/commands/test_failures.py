"""Failures of haiftrace itself: the right exit code, no traceback unless it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from haiftrace import cli as command_line
from tests.commands.cli_kit import PRIVATE, trace
from tests.kit import PROMPT, cli, refused


class Fault(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (Fault(PRIVATE), "failed: Fault"),
        (MemoryError(PRIVATE), "not enough memory"),
        (torch.OutOfMemoryError(PRIVATE), "not enough memory"),
        (OSError(28, "No space left on device", "spool"), "(spool): No space left on device"),
        (AssertionError(PRIVATE), "failed: AssertionError"),
        (RecursionError(PRIVATE), "failed: RecursionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_internal_error_is_exit_code_2_and_no_traceback(monkeypatch, error, what, debug):
    def failing(*_):
        raise error

    monkeypatch.setattr("haiftrace.tracing.tracer.open_tracer", failing)
    outcome = trace(*debug)
    assert outcome.code == 2
    assert what in outcome.err
    is_named_error = type(error).__name__.endswith("Error")
    assert outcome.err.count("Error: ") == 1 + (bool(debug) and is_named_error)
    assert outcome.err.count("Hint: ") == 1
    assert ("Traceback" in outcome.err) == bool(debug)
    assert PRIVATE not in outcome.err


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_debug_shows_where_anywhere_on_the_line(place):
    words = ["trace", PROMPT, "--method", "none"]
    words.insert({"before": 0, "between": 1, "after": 4}[place], "--debug")
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.rstrip().splitlines()[-2].startswith("Error: There is no method")


def test_debug_after_two_hyphens_is_a_prompt():
    outcome = cli("trace", "--method", "none", "--", "--debug")
    refused(outcome, "no method 'none'")


def test_interruption_is_exit_code_130(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("haiftrace.tracing.tracer.open_tracer", interrupted)
    outcome = trace()
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "Interrupted.\n")


def test_a_code_for_every_way_out():
    def fails(error):
        return command_line._failed(error)

    assert fails(BrokenPipeError()) == 2
    assert command_line._without_debug(["a", "--debug", "--", "--debug"]) == (
        ["a", "--", "--debug"],
        True,
    )


def test_a_few_of_them_in_a_real_process(tmp_path):
    command = [sys.executable, "-c", "from haiftrace.cli import main; main()"]
    for arguments, what in (
        (["trace", "x", "-o", "x.foo"], "'.foo'"),
        (["trace", "x", "--method", "none"], "no method"),
        (["index", "--model", "x", "--corpus", "none.jsonl"], "none.jsonl"),
        (["trace", "x"], "no index at haiftrace-index"),
        (["trace", "x", "--top", "0"], "--top"),
        ([], "Usage"),
    ):
        ran = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 2
        assert what in ran.stderr
        assert "Traceback" not in ran.stderr
        assert ran.stdout == ""
    assert not list(Path(tmp_path).iterdir())
