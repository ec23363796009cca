"""A run that was killed after any shard ends in the same bits, with records of many windows too."""

from __future__ import annotations

import pytest

from haiftrace.engine import DirectGradients
from haiftrace.index import plan, shard_maker
from haiftrace.store import Index, IndexWriter
from tests import kit
from tests.index.index_kit import build, vectors, windows
from tests.tiny_models import SENTENCES

CONTEXT = 12
"""Tokens of a window: a record has one to six."""


class Killed(BaseException):
    """What no clean-up can follow."""


@pytest.fixture
def corpus(tmp_path):
    """Long records and short ones, and some without a label at the end of what is read ahead."""
    texts = []
    for number, text in enumerate(SENTENCES[:9]):
        texts.append(" ".join([text] * (1 + number % 3)))
        texts += ["M"] if number % 3 == 1 else []
    return kit.write_corpus(tmp_path / "data.jsonl", texts)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(plan, "READ_AHEAD", 4)
    monkeypatch.setattr(shard_maker, "BATCH_TOKENS", {"cpu": 64})


def make(path, corpus):
    model = kit.checkpoint(dtype="float32")
    return build(path, corpus, model=model, context=CONTEXT, shard_records=5)


def content(path):
    """Every number and text of an index, to the last bit."""
    rows = [
        {
            key: value.tobytes() if hasattr(value, "tobytes") else value
            for key, value in vars(window).items()
        }
        for window in windows(path)
    ]
    return rows, vectors(path).tobytes()


def killed_after(path, corpus, shards):
    """Let the process die as soon as so many shards are durable."""
    add = IndexWriter.add_shard

    def add_and_die(self, staged):
        add(self, staged)
        if len(self.manifest.shards) == shards:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndexWriter, "add_shard", add_and_die)
        with pytest.raises(Killed):
            make(path, corpus)


def test_a_run_killed_after_any_shard_ends_in_the_same_bits(tmp_path, corpus):
    make(tmp_path / "undisturbed", corpus)
    right = content(tmp_path / "undisturbed")
    with Index.open(tmp_path / "undisturbed") as index:
        shards = len(index.manifest.shards)
        assert max(window.windows for window in index.iter_windows()) > 2
    assert shards >= 3
    for number in range(1, shards):
        killed_after(tmp_path / str(number), corpus, number)
        make(tmp_path / str(number), corpus)
        assert content(tmp_path / str(number)) == right, number


@pytest.mark.parametrize("batches", range(1, 8))
def test_an_interrupt_in_the_middle_of_a_group_ends_in_the_same_bits(tmp_path, corpus, batches):
    make(tmp_path / "undisturbed", corpus)
    compute = DirectGradients.measures
    done = []

    def counted(self, *arguments):
        done.append(1)
        if len(done) == batches:
            raise KeyboardInterrupt
        return compute(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectGradients, "measures", counted)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "index", corpus)
    make(tmp_path / "index", corpus)
    assert content(tmp_path / "index") == content(tmp_path / "undisturbed")


def test_shard_records_sets_the_size_of_a_file(tmp_path, corpus):
    for size, files in ((2, 6), (100, 1)):
        model = kit.checkpoint(dtype="float32")
        build(tmp_path / str(size), corpus, model=model, shard_records=size)
        with Index.open(tmp_path / str(size)) as index:
            assert len(index.manifest.shards) >= files
            assert len(index.manifest.shards) < 2 * files
