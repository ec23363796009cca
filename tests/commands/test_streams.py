"""Streams of the command line that end early: a reader that has gone, a full disk."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from haiftrace import cli as command_line
from tests import kit
from tests.kit import ANSWER, PROMPT


def in_another_process(arguments, stdout: int) -> tuple[int, str]:
    """Run the command in a fork of this process, its stdout a file descriptor."""
    reader, writer = os.pipe()

    def run():
        os.dup2(stdout, 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        sys.argv = ["haiftrace", *map(str, arguments)]
        command_line.main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    os.close(writer)
    with open(reader) as stream:
        err = stream.read()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, err


@pytest.fixture
def advice():
    """What transformers writes to stderr, each warning as if it were the first of a process."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.Logger.warning_once.cache_clear()
    logging.getLogger("transformers").addHandler(handler)
    yield said
    logging.getLogger("transformers").removeHandler(handler)


@pytest.mark.parametrize("padding", ["of batches", "first of a record"])
def test_transformers_advises_nobody_to_mask_what_a_causal_model_cannot_see(
    tmp_path, advice, padding
):
    """GPT-2's configuration may name a padding token, and ids of it begin or end our batches."""
    path = kit.copied_checkpoint(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    first = kit.checkpoint().tokenizer(kit.SENTENCES[0])["input_ids"][0]
    config["pad_token_id"] = {"of batches": 0, "first of a record": first}[padding]
    (path / "config.json").write_text(json.dumps(config))
    made = ("index", "--model", path, "--corpus", kit.corpus_path(), "-o", tmp_path / "index")
    for command in (
        (*made, *kit.SMALL_OPTIONS, "--append-eos", "--methods", "haif", "-q"),
        ("trace", PROMPT, "--index", tmp_path / "index", "--method", "layerwise,haif", "-q"),
    ):
        outcome = kit.cli(*command)
        assert (outcome.code, outcome.err) == (0, "")
    assert advice == []


@pytest.fixture
def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("to", ["terminal", "-"])
def test_a_reader_that_has_gone_is_no_crash_and_no_finding(tmp_path, closed_pipe, to):
    more = [] if to == "terminal" else ["-o", "-"]
    arguments = ["trace", PROMPT, "--response", ANSWER, "--index", kit.index_path(), *more]
    code, err = in_another_process([*arguments, "-o", tmp_path / "r.json"], closed_pipe)
    assert (code, err) == (2, "")
    assert json.loads((tmp_path / "r.json").read_text())["findings"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("to", ["terminal", "-"])
def test_a_full_disk_behind_stdout_is_an_error(to):
    more = [] if to == "terminal" else ["-o", "-"]
    full = os.open("/dev/full", os.O_WRONLY)
    arguments = ["trace", PROMPT, "--response", ANSWER, "--index", kit.index_path(), *more]
    code, err = in_another_process(arguments, full)
    os.close(full)
    assert code == 2
    assert err.count("Error:") == 1
    assert "No space left" in err
    assert "defect" not in err


def test_a_real_process_ends_with_its_own_code_whatever_stdout_is(closed_pipe):
    command = [sys.executable, "-c", "from haiftrace.cli import main; main()", "--help"]
    ran = subprocess.run(
        command, stdout=closed_pipe, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (2, "")
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            ran = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
    shell = " ".join(shlex.quote(word) for word in command)
    closed = subprocess.run(["sh", "-c", f"{shell} >&- 2>&-"], check=False)
    assert closed.returncode == 0
