"""What the tests of indexing share: how to build, and to read and compare what was built."""

from __future__ import annotations

import json
import time

import numpy as np

from haiftrace.corpus import CorpusSettings
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.progress import Silent
from haiftrace.store import Index
from tests import kit


class Notebook:
    """A progress that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, float | None]] = []
        self.work = 0.0

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, what: str, work: float | None) -> None:
        self.stages.append((what, work))
        self.work = 0.0

    def advance(self, work: float, records: int = 0, tokens: int = 0) -> None:
        self.work += work


def build(output, corpus, progress=None, model=None, **settings):
    reading = {k: settings.pop(k) for k in ("loss_on", "skip_bad_lines") if k in settings}
    return build_index(
        model or kit.checkpoint(),
        CorpusSettings((str(corpus),), **reading),
        IndexSettings(output=output, **{**kit.SMALL, **settings}),
        progress or Silent(),
    )


def windows(path):
    with Index.open(path) as index:
        return list(index.iter_windows())


def vectors(path):
    """[tokens, K] the vectors of all label tokens as the search index holds them."""
    with Index.open(path) as index:
        queries = np.eye(index.layout.token_vectors)
        return np.concatenate([block for _, _, block in index.token_search.products(queries)])


def files(path):
    """What an index consists of, beside its manifest."""
    found = (file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in found
        if file.name != "manifest.json"
    }


def complete_content(path):
    """Every file of an index, the manifest without its times."""
    manifest = json.loads((path / "manifest.json").read_text())
    for times in ("created", "finished", "digest"):
        del manifest[times]
    for times in ("seconds", "resumed"):
        del manifest["extra"][times]
    assert manifest["complete"]
    return {**files(path), "manifest.json": manifest}


def until(condition, seconds=120.0):
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same(one, two, tolerance=1e-6):
    """The same rows in the same order; numbers may differ in the last bit that is kept."""
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name in ("record", "id", "path", "line", "start", "window", "windows", "text"):
            assert getattr(a, name) == getattr(b, name)
        assert (a.token_ids, a.offsets, a.labels) == (b.token_ids, b.offsets, b.labels)
        for name in ("loss", "token_grad_norm", "token_loss"):
            kit.close(getattr(a, name), getattr(b, name), tolerance)
