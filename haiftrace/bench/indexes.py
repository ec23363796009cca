"""Scores of every record for every leak of a trained model, by every method, over one index.

A leak is a held-out question that the model answers right; its source is any record of the
question's subject. The scores come from the same registry and the same passes as `haiftrace trace`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.bench.ablation import DEFAULT, LossOn, Variation, candidates
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion, TrainingRecord
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.corpus import CorpusSettings
from haiftrace.device import free_memory
from haiftrace.errors import IndexStoreError
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.index.precompute import prepare
from haiftrace.methods import COMBINES, IDENTITY, METHODS, Combine, GradientMethod, Rule
from haiftrace.methods.settings import DampingSetting, MethodSettings, SeriesSettings
from haiftrace.progress import Progress, Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.scoring.family import ScoringQuery
from haiftrace.scoring.gradient.exact import GradientSearch, score_by_gradient
from haiftrace.scoring.gradient.norms import NormSource, needs_of
from haiftrace.scoring.gradient.query_vectors import gradient_vectors
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak
from haiftrace.tracing.tracer import Tracer

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

TRAJECTORY_STEPS = 3
"""Checkpoints of TracInCP and ATTIF, evenly over the training up to the traced one."""

SOLVER_VECTORS = 4
"""Vectors held while one query vector is computed: v, what it becomes, and the products between."""

SERIES = SeriesSettings(depth=40, damping=DampingSetting(0.1, True), batch=4)
"""LiSSA's settings for a hundred questions on a tiny model: converged to a few percent."""


def trajectory(trained: Trained, regime: str) -> str:
    """`--checkpoints` for a regime: at most `TRAJECTORY_STEPS` up to it, with learning rates."""
    last = trained.regimes[regime]
    before = [c for c in trained.checkpoints if c.step <= last and c.learning_rate > 0]
    chosen = before
    if len(before) > TRAJECTORY_STEPS:
        places = np.linspace(0, len(before) - 1, TRAJECTORY_STEPS + 1)[1:]
        chosen = [before[round(place)] for place in places]
    return ",".join(
        f"{trained.directory / f'checkpoint-{c.step}'}:{c.learning_rate!r}" for c in chosen
    )


class Bench:
    """A regime's model and its indexes, one a scope, pool and size of the token vectors.

    Args:
        work: where the indexes are kept.
        data: what the model was trained on.
        trained: the training.
        regime: which of its checkpoints.
        pools: further pools of candidates by name.
    """

    def __init__(
        self,
        work: Path,
        data: BenchData,
        trained: Trained,
        regime: str,
        memory: int,
        progress: Progress,
        device: str = "auto",
        pools: Mapping[str, Sequence[TrainingRecord]] | None = None,
    ) -> None:
        from haiftrace.checkpoint.load import load_checkpoint

        self._work = work
        self._data = data
        self._memory = memory
        self._progress = progress
        self._pools = pools or {}
        self.checkpoint: Checkpoint = load_checkpoint(
            trained.path(regime), dtype="float32", device=device
        )
        self.settings = MethodSettings(series=SERIES, checkpoints=trajectory(trained, regime))
        self._tracers: dict[tuple[str, str, int], Tracer] = {}
        # Of the last pass over tokens, for the next variation, which combines them otherwise.
        self._token_scores: dict[tuple[Variation, tuple[str, ...]], dict[Combine, np.ndarray]] = {}

    def tracer(self, scope: str, pool: str, token_vectors: int = 0) -> Tracer:
        """The index over a scope and pool, made where it is not there yet.

        Args:
            token_vectors: dimensions of a token's vector; 0 where every record is scored.
        """
        key = (scope, pool, token_vectors)
        if key not in self._tracers:
            name = pool.replace(" ", "-") + (f"-{token_vectors}" if token_vectors else "")
            path = self._work / f"index-{scope}-{name}"
            corpus = self._work / f"{name}.jsonl"
            own_pool = [(record,) for record in self._pools.get(pool, ())]
            _write_corpus(corpus, own_pool or candidates(self._data, pool))
            self._index(path, scope, token_vectors, CorpusSettings((str(corpus),)))
            opened = Index.open(path, verify=False)
            self._tracers[key] = Tracer(opened, self.checkpoint, self._memory)
        return self._tracers[key]

    def _index(self, path: Path, scope: str, token_vectors: int, corpus: CorpusSettings) -> None:
        settings = IndexSettings(
            path,
            scope,
            append_eos=True,
            token_vectors=token_vectors,
            memory=self._memory,
        )
        try:
            build_index(self.checkpoint, corpus, settings, self._progress)
        except IndexStoreError:  # it is another index: of another training, or of another version
            again = replace(settings, overwrite=True)
            build_index(self.checkpoint, corpus, again, self._progress)

    def prepare(
        self, methods: Sequence[str], scope: str = DEFAULT.scope, pool: str = DEFAULT.pool
    ) -> None:
        """Puts what the methods need into the index over a scope and pool."""
        path = self.tracer(scope, pool).index.path
        quiet = QuietProgress(self._progress)
        prepare(path, self.checkpoint, ",".join(methods), self.settings, self._memory, quiet)
        self._tracers[scope, pool, 0] = Tracer(
            Index.open(path, verify=False), self.checkpoint, self._memory
        )

    def reuse_factors(self, scope: str, pool: str) -> None:
        """Lets a pool be scored by EK-FAC's factors of all records, which are what was trained."""
        records = self.tracer(scope, DEFAULT.pool)
        curvature = records.session.model.curvature(self.settings, QuietProgress(self._progress))
        self.tracer(scope, pool).session.model.share_curvature(curvature)

    def queries(
        self, tracer: Tracer, leaks: Sequence[ProbeQuestion], loss_on: LossOn = "response"
    ) -> list[ScoringQuery]:
        """The leaks as tokens."""
        settings = PromptSettings(loss_on_all=loss_on == "all")
        return [tracer.query(Leak(q.prompt, q.response), settings)[1] for q in leaks]

    def scores(
        self, leaks: Sequence[ProbeQuestion], variation: Variation, methods: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """[leaks, candidates] by method; a candidate's score is its highest window's."""
        tracer = self.tracer(variation.scope, variation.pool)
        records = tracer.index.column("record")
        batches: dict[str, list[np.ndarray]] = {name: [] for name in methods}
        size = _questions_per_pass(tracer, variation, methods)
        for start in range(0, len(leaks), size):
            batch = leaks[start : start + size]
            for name, scores_QN in self._windows(tracer, batch, variation, methods).items():
                batches[name].append(_record_scores(scores_QN, records))
        return {name: np.concatenate(scores) for name, scores in batches.items() if scores}

    def _windows(
        self,
        tracer: Tracer,
        leaks: Sequence[ProbeQuestion],
        variation: Variation,
        names: Sequence[str],
    ) -> dict[str, np.ndarray]:
        """[leaks, windows] by method."""
        queries = self.queries(tracer, leaks, variation.loss_on)
        quiet = QuietProgress(self._progress)
        if variation.combine == "sum":
            return tracer.session.score_matrix(queries, names, self.settings, quiet)
        assert list(names) == ["haif"], "the other methods only sum"
        key = (replace(variation, combine="sum"), tuple(q.id for q in leaks))
        if key not in self._token_scores:
            self._token_scores = {key: _by_tokens(tracer, queries, self.settings, quiet)}
        return {"haif": self._token_scores[key][variation.combine]}


def _questions_per_pass(tracer: Tracer, variation: Variation, methods: Sequence[str]) -> int:
    """How many questions' query vectors fit in memory at once, beside the one in computation.

    The layerwise method sees to that itself.
    """
    if not any(METHODS[name].full_gradients for name in methods):
        return sys.maxsize
    held = 1
    if variation.combine != "sum":
        held = 3  # v, its query vector, and the stack of all
    elif any(METHODS[name].follows_run for name in methods):
        held = 2  # at the traced checkpoint, and at the one that is visited
    engine = tracer.session.model.engine
    room = free_memory(engine.device) // 2
    return max(1, room // (held * engine.gradient_bytes) - SOLVER_VECTORS)


class QuietProgress(Silent):
    """Shows the progress of long work and drops its messages: a bench says what matters itself."""

    def __init__(self, progress: Progress) -> None:
        self.start = progress.start  # type: ignore[method-assign]
        self.advance = progress.advance  # type: ignore[method-assign]


class _TokenScores:
    """Takes a leak's token evidence by HAIF-T, and combines it in the other ways."""

    def __init__(self, rule: Rule, windows: int) -> None:
        self._rules = {combine: replace(rule, combine=combine) for combine in COMBINES[1:]}
        self.scores = {combine: np.zeros(windows) for combine in self._rules}

    def add(self, scored: ScoredWindow) -> None:
        for combine, rule in self._rules.items():
            combined_T = rule.combined(scored.evidence, np.asarray(scored.window.labels))
            self.scores[combine][scored.window.row] = combined_T.sum()


def _by_tokens(
    tracer: Tracer, queries: Sequence[ScoringQuery], settings: MethodSettings, progress: Progress
) -> dict[Combine, np.ndarray]:
    """[leaks, windows] of HAIF with its tokens rectified or the strongest alone, from one pass."""
    method = METHODS["haif-t"]  # its evidence is each token's u·A(g_kj)
    assert isinstance(method, GradientMethod)
    model = tracer.session.model
    rule = model.rule([method], settings)
    windows = len(model.index)
    rows = [_TokenScores(rule, windows) for _ in queries]
    searches = [
        GradientSearch(range(windows), {IDENTITY: vector}, vector.norm, {method.name: row.add})
        for vector, row in zip(gradient_vectors(model.engine, queries), rows, strict=True)
    ]
    curvature = model.curvature(settings, progress)
    norms = NormSource(model.index, model.engine, curvature, needs_of([method], rule), rule)
    score_by_gradient(model.index, model.engine, searches, [method], rule, norms, progress)
    return {combine: np.stack([row.scores[combine] for row in rows]) for combine in COMBINES[1:]}


def _record_scores(scores_QN: np.ndarray, records: np.ndarray) -> np.ndarray:
    """[Q, records] the highest score of each record's windows."""
    scores_QR = np.full((len(scores_QN), int(records.max()) + 1), -np.inf)
    for scores_R, scores_N in zip(scores_QR, scores_QN, strict=True):
        np.maximum.at(scores_R, records, scores_N)
    return scores_QR


def _write_corpus(path: Path, documents: Sequence[tuple[TrainingRecord, ...]]) -> None:
    lines = [
        json.dumps(
            {"id": "+".join(r.id for r in records), "text": " ".join(r.text for r in records)},
            ensure_ascii=False,
        )
        for records in documents
    ]
    content = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")
