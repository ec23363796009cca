"""Use case: query × index × methods -> findings. FAISS proposes, exact forward mode disposes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace import __version__
from haiftrace.calibration.court import Court
from haiftrace.calibration.null_distribution import ALPHA
from haiftrace.calibration.verdict import with_q_values
from haiftrace.errors import UsageError
from haiftrace.findings import Finding, IndexInfo, ModelInfo, Report, Verdict
from haiftrace.methods import (
    DEFAULT_METHOD,
    INVERSE,
    GradientMethod,
    LayerwiseMethod,
    LexicalMethod,
    Method,
    Rule,
    TrajectoryMethod,
    find_methods,
    is_adjusted,
)
from haiftrace.methods.settings import MethodSettings
from haiftrace.parameters.scopes import parameter_count, select_parameters
from haiftrace.progress import Progress
from haiftrace.query.query import Asking, Query, ask, given
from haiftrace.scoring.candidates import CANDIDATES, SearchBudget
from haiftrace.scoring.freshness import load_indexed
from haiftrace.scoring.gradient import Search, score_by_gradient
from haiftrace.scoring.inverse import directions_of
from haiftrace.scoring.layerwise.block import LayerwiseSearch
from haiftrace.scoring.norms import NormSource, needs_of
from haiftrace.scoring.query_gradient import Question, over_query_norm
from haiftrace.scoring.session import Scorers, keeping_command
from haiftrace.scoring.top_records import Tally
from haiftrace.scoring.tracin import TrajectoryScorer, training_run
from haiftrace.store import Index
from haiftrace.trace.evidence import WEAK_LOSS, record_evidence, response_tokens, weakness

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint

BY_DIRECT = "candidates were proposed by token vectors of direct gradients (--exact scores all)"

MOST_LEAKS = 256
"""Leaks of one pass through the records, at most: each has a score for every window."""


@dataclass(frozen=True)
class TraceSettings:
    """What to trace with.

    Attributes:
        method: names in the registry, with commas between.
        candidates: windows that the search proposes for exact scoring.
        exact: score every window instead.
        top: records in the result.
        asking: how prompt and response become one string.
        methods: what the methods are told.
        alpha: false-accusation rate of the verdicts.
    """

    method: str = DEFAULT_METHOD
    candidates: int = CANDIDATES
    exact: bool = False
    top: int = 10
    asking: Asking = field(default_factory=Asking)
    methods: MethodSettings = field(default_factory=MethodSettings)
    alpha: float = ALPHA

    @property
    def budget(self) -> SearchBudget:
        """How many windows are scored exactly."""
        return SearchBudget(self.exact, self.candidates)


@dataclass(frozen=True)
class Leak:
    """A prompt and, where it is known, the response to be traced and the part of it.

    `query` is all of that as tokens, where it has been asked already.
    """

    prompt: str
    response: str | None = None
    span: str | None = None
    query: Query | None = None


@dataclass(frozen=True)
class _Asked:
    """A leak while it is traced: what is known of it, and what is found for each method."""

    leak: Leak
    query: Query
    question: Question
    losses: Tensor
    best: dict[str, Tally]
    notes: dict[str, list[str]]
    scored: dict[str, int]


class Tracer(Scorers):
    """An index and its checkpoint, opened together for one trace or several.

    Args:
        index: the opened index.
        checkpoint: the model it was made from.
        memory: bytes that a backward pass, or a block of record gradients, may take.

    Raises:
        StaleIndexError: the index was made from another checkpoint, tokenizer or corpus.
    """

    def __init__(self, index: Index, checkpoint: Checkpoint, memory: int = 512 << 20) -> None:
        super().__init__(index, checkpoint, memory)
        self._court = Court(index)

    def report(
        self, leaks: Sequence[Leak], settings: TraceSettings, progress: Progress, command: str = ""
    ) -> Report:
        """Traces each leak. Raises UsageError for a leak that cannot be traced."""
        began = time.monotonic()
        findings = [f for found in self.trace_all(leaks, settings, progress) for f in found]
        return self.report_of(findings, settings, command, time.monotonic() - began)

    def report_of(
        self, findings: Sequence[Finding], settings: TraceSettings, command: str, seconds: float
    ) -> Report:
        """What was found, with what it was found in; q-values are over all of it."""
        index, checkpoint = self.index, self.checkpoint
        names = select_parameters(checkpoint.model, index.settings["scope"])
        totals = index.manifest.totals
        return Report(
            model=ModelInfo(
                path=str(checkpoint.path),
                architecture=checkpoint.architecture,
                parameters=checkpoint.parameters,
                traced_parameters=parameter_count(checkpoint.model, names),
                scope=index.settings["scope"],
                dtype=checkpoint.dtype,
                fingerprint=checkpoint.fingerprint,
            ),
            index=IndexInfo(
                path=str(index.path),
                records=totals.records,
                windows=totals.windows,
                tokens=totals.label_tokens,
                scope=index.settings["scope"],
                corpus_fingerprint=index.fingerprints["corpus"],
            ),
            findings=tuple(with_q_values(findings)),
            tool_version=__version__,
            command=command,
            seconds=seconds,
            settings={
                "method": settings.method,
                "candidates": settings.candidates,
                "exact": settings.exact,
                "top": settings.top,
                "alpha": settings.alpha,
                **settings.methods.described(find_methods(settings.method)),
            },
        )

    def trace(self, leak: Leak, settings: TraceSettings, progress: Progress) -> tuple[Finding, ...]:
        """One leak: for each method the records that made the response likelier, best first."""
        (findings,) = self.trace_all([leak], settings, progress)
        return findings

    def trace_all(
        self, leaks: Sequence[Leak], settings: TraceSettings, progress: Progress
    ) -> Iterator[tuple[Finding, ...]]:
        """The findings of each leak, in the order of the leaks, each as `trace` gives it.

        Gradient methods pass through the records once for as many leaks as their gradients fit
        into an eighth of the device's memory, or into that of a backward pass where this is more;
        methods over a training run once a leak.
        """
        methods = find_methods(settings.method)
        if settings.candidates < 1 or settings.top < 1:
            raise UsageError("--candidates and --top take a number of at least 1.")
        if not 0 < settings.alpha < 1:
            raise UsageError("--alpha takes a number between 0 and 1.", "Use --alpha 0.01.")
        rule = self.rule(methods, settings.methods)
        together = self._leaks_of_a_pass(methods)
        for start in range(0, len(leaks), together):
            block = [
                self._asked(leak, methods, settings) for leak in leaks[start : start + together]
            ]
            self._score(block, methods, rule, settings, progress)
            for asked in block:
                yield tuple(self._finding(asked, method, settings) for method in methods)

    def _leaks_of_a_pass(self, methods: Sequence[Method]) -> int:
        """How many leaks' gradients are held at a time: each has v, and u for every direction.

        The layerwise method takes its query tokens in blocks itself.
        """
        if all(isinstance(method, LexicalMethod | LayerwiseMethod) for method in methods):
            return MOST_LEAKS
        sides = {m.direction for m in methods if isinstance(m, GradientMethod)}
        each = self.engine.gradient_bytes * (2 + 2 * len(sides))
        return min(MOST_LEAKS, max(1, self._room // each))

    def _asked(self, leak: Leak, methods: Sequence[Method], settings: TraceSettings) -> _Asked:
        from haiftrace.engine.losses import batch_losses

        query, question = self.question(leak, settings.asking)
        return _Asked(
            leak,
            query,
            question,
            batch_losses(self.checkpoint.model, question.batch)[0],
            {method.name: Tally(settings.top) for method in methods},
            {method.name: [] for method in methods},
            {method.name: len(self.index) for method in methods},
        )

    def _score(
        self,
        block: Sequence[_Asked],
        methods: Sequence[Method],
        rule: Rule,
        settings: TraceSettings,
        progress: Progress,
    ) -> None:
        everything = range(len(self.index))
        for layerwise in (m for m in methods if isinstance(m, LayerwiseMethod)):
            self._by_layers(block, layerwise, settings, progress)
        by_gradient = [m for m in methods if isinstance(m, GradientMethod)]
        if by_gradient:
            self._by_gradient(block, by_gradient, rule, settings, progress)
        by_trajectory = [m for m in methods if isinstance(m, TrajectoryMethod)]
        if by_trajectory:
            scorer = self._trajectory_scorer(by_trajectory, rule, settings.methods, progress)
            work = float(len(everything) * len(block))
            progress.start("scoring along the training run", work)
            for asked in block:
                scorer.score(everything, by_trajectory, asked.question, asked.best, progress)
                for method in by_trajectory:
                    asked.notes[method.name] += scorer.notes
        by_words = [m for m in methods if isinstance(m, LexicalMethod)]
        for asked in block if by_words else ():
            traced = asked.query.span or asked.query.response
            self.words.score(by_words, asked.leak.prompt, traced, asked.best, settings.top)

    def _by_layers(
        self,
        block: Sequence[_Asked],
        method: LayerwiseMethod,
        settings: TraceSettings,
        progress: Progress,
    ) -> None:
        questions = [asked.question.batch for asked in block]
        rows = self.candidates.of(questions, settings.budget)
        searches = list(map(LayerwiseSearch, questions, rows))
        tallies = [asked.best[method.name] for asked in block]
        counts = self.layerwise.trace(searches, tallies, settings.top, progress)
        for asked, count in zip(block, counts, strict=True):
            asked.scored[method.name] = count
            asked.notes[method.name] += self.similarity.notes

    def _finding(self, asked: _Asked, method: Method, settings: TraceSettings) -> Finding:
        query, question, tally = asked.query, asked.question, asked.best[method.name]
        mean_loss = float((asked.losses * question.weights_BT[0]).sum())
        full = isinstance(method, GradientMethod | TrajectoryMethod)
        general = (*self.notes, *(self.engine.notes if full else ()), *query.notes)
        verdict, p_values = self._verdict(method, question, tally, settings, mean_loss)
        return Finding(
            prompt=query.prompt,
            response=query.response,
            method=method.name,
            records=tuple(
                record_evidence(rank, one, query, p)
                for rank, (one, p) in enumerate(zip(tally.result(), p_values, strict=True), 1)
            ),
            response_tokens=response_tokens(query, asked.losses),
            mean_loss=mean_loss,
            generated=query.generated,
            span=query.span,
            exhaustive=asked.scored[method.name] == len(self.index),
            scored=asked.scored[method.name],
            notes=(*general, *asked.notes[method.name], *weakness(mean_loss)),
            verdict=verdict,
        )

    def question(self, leak: Leak, asking: Asking) -> tuple[Query, Question]:
        """A leak as tokens.

        Raises:
            UsageError: it cannot be traced.
        """
        from haiftrace.engine import make_batch

        if leak.query is not None:
            query = leak.query
        elif leak.response is None:
            query = ask(self.checkpoint, leak.prompt, asking, leak.span)
        else:
            query = given(self.checkpoint, leak.prompt, leak.response, asking, leak.span)
        batch = make_batch([query.token_ids], [query.labels], self.device)
        return query, Question(batch, lambda: self.engine)

    def _verdict(
        self,
        method: Method,
        question: Question,
        tally: Tally,
        settings: TraceSettings,
        mean_loss: float,
    ) -> tuple[Verdict | None, Sequence[float | None]]:
        """What the ranking means, and a p-value a record; search by words proves nothing."""
        if isinstance(method, LexicalMethod):
            return None, [None for _ in tally.result()]
        reasons = []
        if settings.asking.loss_on_all:
            reasons.append("the prompt is traced too, and calibration traces responses alone")
        if mean_loss > WEAK_LOSS:
            reasons.append("the model would hardly say this response")
        return self._court.judge(
            method,
            settings.methods,
            settings.alpha,
            tally,
            over_query_norm(method, question),
            int(question.batch.labels_BT.sum()),
            reasons,
        )

    def _by_gradient(
        self,
        block: Sequence[_Asked],
        methods: Sequence[GradientMethod],
        rule: Rule,
        settings: TraceSettings,
        progress: Progress,
    ) -> None:
        curvature = self.curvature(settings.methods, progress)
        names = {method.direction for method in methods}
        series = self.series(settings.methods, progress)
        searches = []
        questions = [asked.question.batch for asked in block]
        proposed = self.candidates.of(questions, settings.budget)
        for asked, rows in zip(block, proposed, strict=True):
            if len(rows) < len(self.index):
                for method in methods:
                    asked.notes[method.name].append(BY_DIRECT)
            asked.scored.update({method.name: len(rows) for method in methods})
            directions, said = directions_of(names, asked.question, curvature, series)
            for method in methods:
                asked.notes[method.name] += said.get(method.direction, ())
            searches.append(Search(rows, directions, asked.question.direction.norm, asked.best))
        norms = NormSource(self.index, self.engine, curvature, needs_of(methods, rule), rule)
        if norms.missing:
            chosen = [m.name for m in methods if m.metric == INVERSE or is_adjusted(m)]
            keep = keeping_command(self.index, ",".join(chosen), settings.methods)
            progress.say(
                "Norms that these methods divide by are computed for this run. To keep them in the"
                f" index: {keep}"
            )
        score_by_gradient(self.index, self.engine, searches, methods, rule, norms, progress)

    def _trajectory_scorer(
        self,
        methods: Sequence[TrajectoryMethod],
        rule: Rule,
        settings: MethodSettings,
        progress: Progress,
    ) -> TrajectoryScorer:
        names = ", ".join(method.name for method in methods)
        trajectory = training_run(names, settings, self.checkpoint)
        scorer = TrajectoryScorer(self.index, self.engine, trajectory, rule, self._memory)
        if any(method.adjusted for method in methods) and not scorer.has_norms:
            keep = keeping_command(self.index, "attif", settings)
            progress.say(
                "The index holds no token norms along this training run: they are computed for"
                f" this run. To keep them in the index: {keep}"
            )
        return scorer


def open_tracer(
    index: str | Path, model: str | None, device: str, memory: int = 512 << 20
) -> Tracer:
    """Opens an index and the checkpoint it was made from, or the one given instead.

    Raises:
        HaiftraceError: either cannot be opened, or they do not belong together.
    """
    opened = Index.open(index, verify=False)
    return Tracer(opened, load_indexed(opened, model, device), memory)
