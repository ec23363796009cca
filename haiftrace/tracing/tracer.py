"""Use case: query × index × methods -> findings. FAISS proposes, exact scores decide."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace import __version__
from haiftrace.calibration.text_evidence import near_alpha, of_a_part, with_text, without_power
from haiftrace.calibration.verdict import Verdicts, with_q_values
from haiftrace.findings import Finding, IndexInfo, ModelInfo, Report
from haiftrace.methods import Method, find_methods
from haiftrace.parameters.scopes import parameter_count, select_parameters
from haiftrace.progress import Progress
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import Query, generated_query, given_query
from haiftrace.reports.evidence_words import UNSAID
from haiftrace.scoring.family import Ranking, ScoringQuery, ScoringRun
from haiftrace.scoring.freshness import load_indexed
from haiftrace.scoring.indexed_model import IndexedModel
from haiftrace.scoring.session import ScoringSession
from haiftrace.store import Index
from haiftrace.tracing.evidence import WEAK_LOSS, record_evidence, response_tokens, weakness
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.text_lookup import TextLookup

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


class Tracer:
    """An index and its checkpoint, opened together for one trace or several.

    Args:
        index: the opened index.
        checkpoint: the model it was made from.
        memory: bytes that a backward pass, or a block of record gradients, may take.

    Attributes:
        session: scores the windows of the index.

    Raises:
        StaleIndexError: the index was made from another checkpoint, tokenizer or corpus.
    """

    def __init__(self, index: Index, checkpoint: Checkpoint, memory: int = 512 << 20) -> None:
        self.index = index
        self.checkpoint = checkpoint
        self.session = ScoringSession(IndexedModel(index, checkpoint, memory))
        self._verdicts = Verdicts(index)
        self._texts = TextLookup(index)

    def report(
        self, leaks: Sequence[Leak], settings: TraceSettings, progress: Progress, command: str = ""
    ) -> Report:
        """Traces each leak. Raises UsageError for a leak that cannot be traced."""
        began = time.monotonic()
        traced = self.trace_all(leaks, settings, progress)
        findings = [finding for of_leak in traced for finding in of_leak]
        return self.report_of(findings, settings, command, time.monotonic() - began)

    def report_of(
        self, findings: Sequence[Finding], settings: TraceSettings, command: str, seconds: float
    ) -> Report:
        """A report on findings of this index and model; q-values are over all of them."""
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
                path=index.place,
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
                **_sampled(settings.prompting),
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

        As many leaks share a pass through the records as the session's memory lets.
        """
        methods = find_methods(settings.method)
        settings.check()
        rule = self.session.model.rule(methods, settings.methods)
        run = ScoringRun(settings.methods, rule, progress, settings.budget, settings.top)
        together = self.session.queries_of_a_trace(methods)
        for start in range(0, len(leaks), together):
            block = leaks[start : start + together]
            queries = [self.query(leak, settings.prompting) for leak in block]
            holders = self._texts.records([query for query, _ in queries])
            rankings = self.session.trace([scored for _, scored in queries], methods, run)
            for (query, scored), held, by_method in zip(queries, holders, rankings, strict=True):
                yield self._findings(query, scored, held, methods, by_method, settings)

    def query(self, leak: Leak, prompting: PromptSettings) -> tuple[Query, ScoringQuery]:
        """A leak as tokens, and as the scoring families take it.

        Raises:
            UsageError: it cannot be traced.
        """
        from haiftrace.engine import make_batch

        if leak.query is not None:
            query = leak.query
        elif leak.response is None:
            query = generated_query(self.checkpoint, leak.prompt, prompting, leak.span)
        else:
            query = given_query(self.checkpoint, leak.prompt, leak.response, prompting, leak.span)
        batch = make_batch([query.token_ids], [query.labels], self.checkpoint.model.device)
        return query, ScoringQuery(batch, leak.prompt, query.span or query.response)

    def _findings(
        self,
        query: Query,
        scored: ScoringQuery,
        holders: Sequence[int] | None,
        methods: Sequence[Method],
        rankings: dict[str, Ranking],
        settings: TraceSettings,
    ) -> tuple[Finding, ...]:
        """What the rankings of one query mean, by each method, and what the text says.

        Args:
            holders: records that hold what is traced; None where that was not looked up.
        """
        from haiftrace.engine.losses import batch_losses

        losses_T = batch_losses(self.checkpoint.model, scored.batch)[0]
        mean_loss = float((losses_T * scored.mean_weights_BT[0]).sum())
        reasons = []
        if settings.prompting.loss_on_all:
            reasons.append("the prompt is traced too, and calibration traces responses alone")
        if mean_loss > WEAK_LOSS:
            reasons.append(UNSAID)
        held = set(holders or ())
        chance = 1.0 if holders is None else self._texts.chance(query)
        findings = []
        for method in methods:
            ranking = rankings[method.name]
            verdict, p_values = self._verdicts.of(
                method, settings.methods, settings.alpha, ranking, scored.token_count, reasons
            )
            holds = None
            if holders is not None:
                holds = [window.window.record in held for window in ranking.records]
                if verdict is not None:
                    doubt = None
                    if verdict.decision == "traced" and holds and not holds[0]:
                        doubt = self._texts.doubt(query, ranking.records[0].window)
                    verdict = with_text(verdict, holds, len(holders), chance, bool(reasons), doubt)
            elif verdict is not None:
                verdict = without_power(verdict)
            if verdict is not None:
                verdict = near_alpha(of_a_part(verdict, self.index.settings["corpus"]))
            notes = (*self.session.model.notes, *self.session.family(method).notes())
            findings.append(
                Finding(
                    prompt=query.prompt,
                    response=query.response,
                    method=method.name,
                    records=tuple(
                        replace(
                            record_evidence(place + 1, window, query, p_values[place]),
                            holds=None if holds is None else holds[place],
                        )
                        for place, window in enumerate(ranking.records)
                    ),
                    response_tokens=response_tokens(query, losses_T),
                    mean_loss=mean_loss,
                    generated=query.generated,
                    span=query.span,
                    exhaustive=ranking.scored == len(self.index),
                    scored=ranking.scored,
                    notes=(*notes, *query.notes, *ranking.notes, *weakness(mean_loss)),
                    verdict=verdict,
                    holders=(
                        None if holders is None else self._texts.holders(holders, ranking.scores)
                    ),
                )
            )
        return tuple(findings)


def _sampled(prompting: PromptSettings) -> dict[str, int | float]:
    """How answers were drawn; nothing where none were."""
    sampling = prompting.sampling
    if sampling is None:
        return {}
    return {
        "sample": sampling.count,
        "temperature": sampling.temperature,
        "sample seed": sampling.seed,
    }


def open_tracer(
    index: str | Path,
    model: str | None,
    device: str,
    memory: int = 512 << 20,
    place: str | None = None,
) -> Tracer:
    """Opens an index and the checkpoint it was made from, or the one given instead.

    Args:
        place: what the index is called in reports; its directory when None.

    Raises:
        HaiftraceError: either cannot be opened, or they do not belong together.
    """
    opened = Index.open(index, verify=False, place=place)
    return Tracer(opened, load_indexed(opened, model, device), memory)
