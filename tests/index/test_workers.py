"""An index is the same to the last bit, whoever made its shards, in whatever order."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from haiftrace.errors import HaiftraceError, IndexStoreError, StaleIndexError
from haiftrace.index import plan
from haiftrace.index.workers import InProcess
from tests import kit
from tests.index.index_kit import complete_content, until
from tests.kit import cli, refused

MODEL = Path("haiftrace/demo/assets/checkpoint").absolute()
CORPUS = Path("haiftrace/demo/assets/corpus.jsonl").absolute()
SHARDS = 40


def arguments(output, *more):
    options = ("--shard-records", "4", "--calibrate", "0", "--device", "cpu")
    return ["index", "--model", MODEL, "--corpus", CORPUS, "-o", output, *options, *more]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What one process makes."""
    path = tmp_path_factory.mktemp("plain") / "index"
    outcome = cli(*arguments(path))
    assert outcome.code == 0, outcome.err
    return complete_content(path)


# In this process, by what a worker is given


class Elsewhere:
    """As a worker does: from a job that was sent, each shard by a maker of its own reading."""

    def __init__(self, order, change=lambda job: job):
        self.order, self.change = order, change

    def make(self, shards, maker, job, passed, done):
        job = self.change(pickle.loads(pickle.dumps(job)))
        makers = [job.maker("cpu", 1) for _ in range(2)]
        for n, place in enumerate(self.order(len(shards))):
            yield shards[place], makers[n % 2].make(shards[place])
            done(shards[place])


def shuffled(count):
    return random.Random(7).sample(range(count), count)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(plan, "READ_AHEAD", 2)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})


def build(path, workforce=None, name="gpt2"):
    from haiftrace.corpus import CorpusSettings
    from haiftrace.index.build import IndexSettings, build_index
    from haiftrace.progress import Silent

    settings = IndexSettings(output=path, token_vectors=64, context=12)
    corpus = CorpusSettings((str(kit.corpus_path()),))
    model = kit.checkpoint(name, "float32")
    build_index(model, corpus, settings, Silent(), workforce)
    return complete_content(path)


@pytest.mark.parametrize("name", ["gpt2", "bloom"])  # direct gradients, and full ones
def test_shards_of_any_order_make_the_same_index(tmp_path, small, name):
    right = build(tmp_path / "plain", name=name)
    assert sum("records/" in file for file in right) >= 5
    for order in (lambda count: range(count)[::-1], shuffled):
        path = tmp_path / order.__name__.strip("<>")
        assert build(path, Elsewhere(order), name) == right


def test_what_a_run_left_is_not_made_again(tmp_path, small):
    right = build(tmp_path / "plain")

    def half(count):
        yield from shuffled(count)[: count // 2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", Elsewhere(half))
    made = []

    class Counting(InProcess):
        def make(self, shards, *rest):
            made.extend(shards)
            yield from super().make(shards, *rest)

    assert build(tmp_path / "index", Counting()) == right
    shards = sum("records/" in file for file in right)
    assert len(made) == shards - shards // 2


def test_shards_of_another_plan_are_made_again(tmp_path, small, monkeypatch):
    """Begun on a device of another kind, say, whose shards are larger."""
    right = build(tmp_path / "plain")
    with monkeypatch.context() as patch:
        patch.setattr(plan, "READ_AHEAD", 3)

        def some(count):
            yield from (1, 0)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "index", Elsewhere(some))
    assert build(tmp_path / "index") == right


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda j: replace(j, fingerprints={**j.fingerprints, "corpus": "x"}), 0, "other corpus"),
        (lambda j: replace(j, root=j.root.parent / "none"), 1, "cannot see the index"),
        (lambda j: replace(j, directory=j.root / "none"), 1, "cannot enter"),
    ],
)
def test_a_worker_that_sees_something_else_says_so(tmp_path, small, change, error, words):
    with pytest.raises((StaleIndexError, IndexStoreError)[error], match=words):
        build(tmp_path / "index", Elsewhere(range, change))


def test_errors_keep_their_hints_on_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(HaiftraceError("what", "next")))
    assert (error.message, error.hint) == ("what", "next")


def test_who_computes_is_said_once():
    kit.misused(cli(*arguments("i", "--ray", "auto", "--workers", "2")), "--workers")


# By processes


@contextmanager
def begun(output, *more):
    """The command in a process of its own, which ends with the block."""
    command = subprocess.Popen(
        [sys.executable, "-m", "haiftrace", *map(str, arguments(output, *more))],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=kit.scratch("."),  # as `cli`: records keep the corpus's name from where it was read
    )
    try:
        yield command
    finally:
        command.kill()
        command.communicate()


def durable(command, path, count):
    """Wait until so many shards are durable; tells why, where the command ends before that."""
    until(lambda: shards_of(path) >= count or command.poll() is not None, 900)
    assert command.poll() is None, command.stderr.read()


def shards_of(path):
    from haiftrace.store import read_manifest

    manifest = read_manifest(path)
    return 0 if manifest is None or manifest.complete else len(manifest.shards)


def children(pid):
    """Worker processes of a command, by their command lines."""
    workers = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            line = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"spawn_main" in line and fields[0] != "Z":
            workers.append(int(status.parent.name))
    return workers


@pytest.mark.slow
def test_three_processes_make_the_same_index(tmp_path, plain):
    outcome = cli(*arguments(tmp_path / "index", "--workers", "3"))
    assert outcome.code == 0, outcome.err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_a_killed_worker_costs_time_alone(tmp_path, plain):
    with begun(tmp_path / "index", "--workers", "3") as command:
        durable(command, tmp_path / "index", 2)
        os.kill(children(command.pid)[0], signal.SIGKILL)
        _, err = command.communicate(timeout=900)
    assert command.returncode == 0, err
    assert "Note: a worker was killed" in err
    assert "Traceback" not in err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_a_killed_command_takes_its_workers_with_it_and_goes_on(tmp_path, plain):
    with begun(tmp_path / "index", "--workers", "3") as command:
        durable(command, tmp_path / "index", 2)
        workers = children(command.pid)
        assert workers
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert 2 <= shards_of(tmp_path / "index") < SHARDS
    outcome = cli(*arguments(tmp_path / "index", "--workers", "2"))
    assert outcome.code == 0, outcome.err
    assert "Going on after" in outcome.err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_workers_that_die_again_and_again_are_an_error_and_nothing_is_lost(tmp_path, plain):
    with begun(tmp_path / "index", "--workers", "2") as command:
        durable(command, tmp_path / "index", 1)
        while command.poll() is None:
            for worker in children(command.pid):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            time.sleep(0.1)
        err = command.stderr.read()
    refused(kit.Outcome(command.returncode, "", err), "Workers were killed 3 times in a row")
    assert shards_of(tmp_path / "index") >= 1
    outcome = cli(*arguments(tmp_path / "index"))
    assert outcome.code == 0, outcome.err
    assert complete_content(tmp_path / "index") == plain
