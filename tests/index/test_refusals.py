"""What indexing refuses, and leaves as it was: what does not fit, an index that is there."""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import pytest

from haiftrace.errors import CorpusError, IndexStoreError, UsageError
from haiftrace.store import IndexWriter
from tests import kit
from tests.index.index_kit import build, same, vectors, windows
from tests.kit import make_index
from tests.tiny_models import SENTENCES

# What cannot be indexed leaves nothing behind


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"token_vectors": 7}, "7 dimensions"),
        ({"token_vectors": -256}, "-256 dimensions"),
        ({"whitening_damping": 0.0}, "0 is no damping"),
        ({"whitening_damping": float("nan")}, "nan is no damping"),
        ({"context": 1}, "1 tokens"),
        ({"context": 65}, "65 tokens"),
        ({"parameters": "nothing_called_so"}, "nothing_called_so"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, what):
    with pytest.raises(UsageError) as caught:
        build(tmp_path / "index", kit.corpus_path(), **settings)
    assert what in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "index").exists()


def test_a_corpus_without_a_label_is_refused(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl", ["M", "T"], ids=False)
    with pytest.raises(CorpusError, match="No record of the corpus has a label: all 2"):
        build(tmp_path / "index", corpus)
    assert not (tmp_path / "index").exists()


def test_a_token_beyond_the_embedding_is_refused_by_its_place(tmp_path, monkeypatch):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    seen = max(kit.checkpoint().tokenizer(SENTENCES[1])["input_ids"])
    from dataclasses import replace

    model = replace(kit.checkpoint(), vocabulary=seen)
    with pytest.raises(CorpusError) as caught:
        build(tmp_path / "index", corpus, model=model)
    assert "data.jsonl:" in caught.value.message
    assert not any(secret in caught.value.message for secret in kit.SECRETS)
    assert not (tmp_path / "index").exists()


def test_a_bad_line_far_down_is_found_before_anything_is_written(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    with corpus.open("a") as lines:
        lines.write("{oops\n")
    with pytest.raises(CorpusError, match=":13:"):
        build(tmp_path / "index", corpus)
    assert not (tmp_path / "index").exists()


# Again, and with other settings


def test_the_same_again_is_complete_already(tmp_path, monkeypatch):
    first = make_index(tmp_path / "index", kit.corpus_path())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "index").rglob("*.parquet")}

    def made(*_, **__):
        raise AssertionError("a pass for nothing")

    monkeypatch.setattr("haiftrace.engine.DirectGradients.measures", made)
    monkeypatch.setattr("haiftrace.engine.DirectGradients.value_inputs", made)
    again = make_index(tmp_path / "index", kit.corpus_path())
    assert not first.already_complete
    assert again.already_complete
    assert again.totals == first.totals
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_other_settings_need_overwrite(tmp_path):
    make_index(tmp_path / "index", kit.corpus_path())
    with pytest.raises(IndexStoreError, match="another index: seed 0 there and 1 now") as caught:
        make_index(tmp_path / "index", kit.corpus_path(), seed=1)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(IndexStoreError, match=r"whitening_damping 0\.1 there and 0\.3 now"):
        make_index(tmp_path / "index", kit.corpus_path(), whitening_damping=0.3)
    before, seen = windows(tmp_path / "index"), vectors(tmp_path / "index")
    make_index(tmp_path / "index", kit.corpus_path(), seed=1, overwrite=True)
    assert np.abs(vectors(tmp_path / "index") - seen).max() > 0.1
    same(windows(tmp_path / "index"), before)


def test_another_corpus_or_checkpoint_needs_overwrite(tmp_path):
    corpus = kit.write_corpus(tmp_path / "data.jsonl")
    make_index(tmp_path / "index", corpus)
    with corpus.open("a") as lines:
        lines.write('{"text": "One more."}\n')
    with pytest.raises(IndexStoreError, match="other corpus"):
        make_index(tmp_path / "index", corpus)
    with pytest.raises(IndexStoreError, match="other corpus; other weights"):
        make_index(tmp_path / "index", corpus, kit.checkpoint("llama"))


def test_two_processes_do_not_write_one_index(tmp_path):
    settings = {"token_vectors": 0}
    with (
        IndexWriter.create_or_resume(tmp_path / "index", settings, {}),
        pytest.raises(IndexStoreError, match=r"Another haiftrace process|another index"),
    ):
        make_index(tmp_path / "index", kit.corpus_path())
    with multiprocessing.get_context("fork").Pool(1) as pool:  # a real second process
        writing = pool.apply_async(_held_by_another, (tmp_path / "shared",))
        deadline = time.monotonic() + 20
        while not (tmp_path / "shared" / "busy").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / "shared" / "busy").unlink()
        with pytest.raises(IndexStoreError, match="Another haiftrace process"):
            make_index(tmp_path / "shared", kit.corpus_path())
        (tmp_path / "done").touch()
        writing.get(20)


def _held_by_another(path):
    from haiftrace.store.durable import DirectoryLock

    path.mkdir()
    lock = DirectoryLock(path)
    (path / "busy").touch()
    deadline = time.monotonic() + 20
    while not (path.parent / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    lock.release()
