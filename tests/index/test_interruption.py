"""Indexing that is interrupted or killed goes on to the same end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from haiftrace.engine import DirectGradients
from haiftrace.errors import IndexStoreError
from haiftrace.index import plan, shard_maker
from haiftrace.store import Index
from tests import kit
from tests.index.index_kit import Notebook, build, files, same, until, windows
from tests.kit import make_index
from tests.tiny_models import SENTENCES


def interrupted(make, batches, error=KeyboardInterrupt, shard_work=0.0):
    """Let the engine raise at the batch after the given number; a record is a batch."""
    compute = DirectGradients.measures
    done = []

    def counted(self, *arguments):
        if len(done) == batches:
            raise error
        done.append(1)
        return compute(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "READ_AHEAD", 2)
        patch.setattr(shard_maker, "BATCH_TOKENS", {"cpu": 1})
        patch.setattr(plan, "SHARD_WORK", {"cpu": shard_work})
        patch.setattr(DirectGradients, "measures", counted)
        with pytest.raises(error):
            make()


@pytest.mark.parametrize(
    ("batches", "error"), [(0, KeyboardInterrupt), (5, KeyboardInterrupt), (9, RuntimeError)]
)
def test_an_interrupted_index_goes_on_to_the_same_end(tmp_path, monkeypatch, batches, error):
    monkeypatch.setattr(plan, "READ_AHEAD", 2)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
    model = kit.checkpoint()

    def make(progress=None):
        with kit.precisely():
            return build(tmp_path / "index", kit.corpus_path(), progress, model)

    interrupted(make, batches, error)
    with pytest.raises(IndexStoreError, match="unfinished"):
        Index.open(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    kept = manifest["totals"]["records"]
    assert kept == batches // 2 * 2  # a shard of two records is made whole, or not at all
    whitening = tmp_path / "index/supplements/whitening/00000.safetensors"
    kept_whitening = whitening.read_bytes()
    notebook = Notebook()
    assert make(notebook).totals.records == len(SENTENCES)
    assert any(f"Going on after {kept} records" in s for s in notebook.said) == bool(kept)
    assert notebook.work == pytest.approx(notebook.stages[-1][1])
    same(windows(tmp_path / "index"), windows(kit.index_path()))
    assert whitening.read_bytes() == kept_whitening


def test_a_resumed_index_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    """In float32, with the whitening that the interrupted run kept, which is not made again."""

    def make(name):
        return make_index(tmp_path / name, kit.corpus_path(), kit.checkpoint(dtype="float32"))

    with monkeypatch.context() as patch:
        # A record a batch, and the same shards, with and without an interrupt.
        patch.setattr(plan, "READ_AHEAD", 2)
        patch.setattr(shard_maker, "BATCH_TOKENS", {"cpu": 1})
        patch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
        make("whole")
        interrupted(lambda: make("index"), 6)
        patch.setattr(DirectGradients, "value_inputs", None)
        make("index")
    assert files(tmp_path / "index") == files(tmp_path / "whole")


def test_records_without_a_label_do_not_upset_where_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "READ_AHEAD", 2)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
    texts = ["M", *SENTENCES[:3], "T", "", "R", *SENTENCES[3:], "P", "Q"]
    corpus = kit.write_corpus(tmp_path / "data.jsonl", texts)
    make_index(tmp_path / "whole", corpus)
    interrupted(lambda: make_index(tmp_path / "index", corpus), 6)
    make_index(tmp_path / "index", corpus)
    same(windows(tmp_path / "index"), windows(tmp_path / "whole"), 1e-6)


def test_with_another_seed_nothing_is_continued(tmp_path):
    interrupted(lambda: make_index(tmp_path / "index", kit.corpus_path()), 6)
    with pytest.raises(IndexStoreError, match="seed"):
        make_index(tmp_path / "index", kit.corpus_path(), seed=5)


def _killed(output):
    torch.set_num_threads(1)
    compute = DirectGradients.measures

    def slow(self, *arguments):
        time.sleep(0.05)
        return compute(self, *arguments)

    DirectGradients.measures = slow
    make_index(output, kit.corpus_path())


def shards(path):
    try:
        return len(json.loads((path / "manifest.json").read_text())["shards"])
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("at", [1, 6])
def test_a_killed_index_goes_on_to_the_same_end(tmp_path, monkeypatch, at):
    monkeypatch.setattr(plan, "READ_AHEAD", 1)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
    right = windows(kit.index_path())
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(tmp_path / "index",)
    )
    process.start()
    until(lambda: shards(tmp_path / "index") >= at)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert at <= shards(tmp_path / "index") < len(SENTENCES)
    make_index(tmp_path / "index", kit.corpus_path())
    same(windows(tmp_path / "index"), right, 1e-6)


def test_ctrl_c_ends_a_real_command_with_130_and_a_partial_index(tmp_path, monkeypatch):
    arguments = [
        *("index", "--model", str(kit.checkpoint_path()), "--corpus", str(kit.corpus_path())),
        *("-o", str(tmp_path / "index"), *kit.SMALL_OPTIONS, "--dtype", "float64"),
    ]
    program = (
        "import signal, sys, time, haiftrace.cli, haiftrace.index.plan as plan\n"
        "from haiftrace.engine import DirectGradients as Direct\n"
        # A job in the background, as CI may be, hands on an interrupt that is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "compute = Direct.measures\n"
        "Direct.measures = lambda *a: (time.sleep(0.5), compute(*a))[1]\n"
        "plan.READ_AHEAD, plan.SHARD_WORK = 2, {'cpu': 0.0}\n"
        f"sys.argv = ['haiftrace', *{arguments!r}]\n"
        "haiftrace.cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: shards(tmp_path / "index") >= 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("\nThe same command goes on from the last complete shard.\nInterrupted.\n")
    assert 2 <= shards(tmp_path / "index") < 6
    monkeypatch.setattr(plan, "READ_AHEAD", 2)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
    outcome = kit.cli(*arguments, cwd=Path.cwd())
    assert outcome.code == 0
    assert "Going on after" in outcome.err
    same(windows(tmp_path / "index"), windows(kit.index_path()), 1e-6)
