"""What the tests of indexing share: how to build, and to read and compare what was built."""

from __future__ import annotations

from haiftrace.corpus import CorpusSettings
from haiftrace.index import IndexSettings, build_index
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
        return list(index.iter_windows(vectors=True, token_vectors=True))


def same(one, two, tolerance=1e-12):
    """The same rows in the same order; vectors may differ in the last bit that is kept."""
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name in ("record", "id", "path", "line", "start", "window", "windows", "text"):
            assert getattr(a, name) == getattr(b, name)
        assert (a.token_ids, a.offsets, a.labels) == (b.token_ids, b.offsets, b.labels)
        for name in ("loss", "grad_norm", "haif_norm", "token_grad_norm"):
            kit.close(getattr(a, name), getattr(b, name), tolerance)
        kit.close(a.token_loss, b.token_loss, 1e-6)
        kit.close(a.vector, b.vector, 2e-3)
        kit.close(a.token_vectors, b.token_vectors, 2 * kit.HALF_A_STEP)
