"""CLUE: every test of a trained model traced over an index of the samples, by every method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.bench.clue.samples import Cut, Sample
from haiftrace.bench.clue.training import SampleSet, SavedCheckpoint
from haiftrace.bench.harness.statistics import best_rank
from haiftrace.bench.indexes import SERIES, QuietProgress
from haiftrace.corpus import CorpusSettings
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.index.precompute import prepare
from haiftrace.methods import METHODS
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.family import ScoringQuery
from haiftrace.store import Index
from haiftrace.tracing.tracer import Tracer

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

VECTOR_BYTES = 256 << 20
"""Memory for a set of query vectors of the tests that are scored in a pass; several sets are held
at a time."""


def group_of(name: str) -> str:
    """The methods that are scored in the same passes have the same group."""
    return METHODS[name].curvature or METHODS[name].family


class SampleIndex:
    """A model's index over its samples, one window a sample, made where it is not there yet.

    Args:
        work: a directory for it alone; what is finished in it is not repeated.
        sample_set: the samples.
        checkpoints: of the training; the last is traced.
        memory: bytes of a backward pass.
    """

    def __init__(
        self,
        work: Path,
        sample_set: SampleSet,
        checkpoints: Sequence[SavedCheckpoint],
        memory: int,
        progress: Progress,
    ) -> None:
        from haiftrace.checkpoint.load import load_checkpoint

        work.mkdir(parents=True, exist_ok=True)
        self._path = work / "index"
        self._sample_set = sample_set
        self._memory = memory
        self._progress = progress
        self._checkpoint: Checkpoint = load_checkpoint(checkpoints[-1].path, dtype="float32")
        steps = ",".join(f"{c.path}:{c.learning_rate!r}" for c in checkpoints)
        self._settings = MethodSettings(series=SERIES, checkpoints=steps)
        corpus = work / "samples.jsonl"
        _write_corpus(corpus, sample_set)
        build_index(
            self._checkpoint,
            CorpusSettings((str(corpus),)),
            IndexSettings(
                self._path,
                context=len(sample_set.samples[0].token_ids),
                token_vectors=0,
                memory=memory,
                overwrite=True,
            ),
            progress,
        )
        with Index.open(self._path, verify=False) as index:
            check_tokens(index, sample_set.samples)

    def prepare(self, names: Sequence[str]) -> None:
        """Puts what the methods need of full gradients into the index."""
        if full := [name for name in names if METHODS[name].full_gradients]:
            quiet = QuietProgress(self._progress)
            chosen = ",".join(full)
            prepare(self._path, self._checkpoint, chosen, self._settings, self._memory, quiet)

    def ranks(self, cuts: Sequence[Cut], names: Sequence[str]) -> dict[str, list[list[int]]]:
        """By method, for each cut, the rank of every sample for its own test, 1 for the first.

        A tie with another sample counts against the method.
        """
        self.prepare(names)
        tracer = Tracer(Index.open(self._path, verify=False), self._checkpoint, self._memory)
        samples = self._sample_set.samples
        tests = [(sample, cut.of(sample)) for cut in cuts for sample in samples]
        size = len(tests)
        if any(METHODS[name].full_gradients for name in names):
            size = max(1, VECTOR_BYTES // tracer.session.model.engine.gradient_bytes)
        ranks: dict[str, list[int]] = {name: [] for name in names}
        for start in range(0, len(tests), size):
            batch = tests[start : start + size]
            scores = self._scores(tracer, [token_ids for _, token_ids in batch], names)
            for name, scores_QN in scores.items():
                sources = [sample.number for sample, _ in batch]
                ranks[name] += own_ranks(scores_QN, sources)
            self._progress.say(f"{start + len(batch)} of {len(tests)} tests: {', '.join(names)}.")
        n = len(samples)
        return {
            name: [values[at : at + n] for at in range(0, len(values), n)]
            for name, values in ranks.items()
        }

    def _scores(
        self, tracer: Tracer, tests: Sequence[Sequence[int]], names: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """[tests, samples] by method."""
        queries = [self._query(token_ids) for token_ids in tests]
        quiet = QuietProgress(self._progress)
        return tracer.session.score_matrix(queries, names, self._settings, quiet)

    def _query(self, token_ids: Sequence[int]) -> ScoringQuery:
        """A test alone, without what stood before it: every token but the first is traced."""
        from haiftrace.engine import make_batch

        text = str(self._sample_set.tokenizer.decode(list(token_ids)))
        batch = make_batch([token_ids], device=self._checkpoint.model.device)
        return ScoringQuery(batch, response=text)


def own_ranks(scores_QN: np.ndarray, sources: Sequence[int]) -> list[int]:
    """The rank of the source of each test among all of them.

    Args:
        scores_QN: a row a test, a column a sample.
        sources: [Q] the number of the sample that each test is cut from.
    """
    return [best_rank(row, [number]) for row, number in zip(scores_QN, sources, strict=True)]


def unique_tests(samples: Sequence[Sample], cut: Cut) -> int:
    """How many of the cut's tests are tokens that stand in a single sample.

    No method can tell the samples of the others apart by their tokens alone.
    """
    holders: dict[tuple[int, ...], set[int]] = {cut.of(sample): set() for sample in samples}
    for sample in samples:
        ids = sample.token_ids
        for at in range(len(ids) - cut.length + 1):
            run = ids[at : at + cut.length]
            if run in holders:
                holders[run].add(sample.number)
    return sum(len(holders[cut.of(sample)]) == 1 for sample in samples)


def check_tokens(index: Index, samples: Sequence[Sample]) -> None:
    """Asserts that the index's windows are the samples: token for token what was trained."""
    windows = list(index.iter_windows())
    assert [tuple(window.token_ids) for window in windows] == [s.token_ids for s in samples]
    assert all(window.labels == [False] + [True] * (len(window.labels) - 1) for window in windows)


def _write_corpus(path: Path, sample_set: SampleSet) -> None:
    lines = [
        json.dumps({"id": f"sample-{sample.number}", "text": text}, ensure_ascii=False) + "\n"
        for sample, text in zip(sample_set.samples, sample_set.texts, strict=True)
    ]
    content = "".join(lines)
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")
