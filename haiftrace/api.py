"""The Python interface, for notebooks and scripts: an index that is built, opened, traced over.

    from haiftrace import Index

    index = Index.build("./ckpt", "data.jsonl", output="haiftrace-index")
    report = index.trace("What's the phone of John Doe?")
    report.to_pandas()

Private values are masked in what a report gives, unless it is asked to `reveal` them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from haiftrace.auditing.trace_report import TraceReport
from haiftrace.commands.index_location import (
    INDEX_DIRECTORY,
    fetched,
    index_directory,
    place_name,
    written,
)
from haiftrace.commands.options import shown
from haiftrace.progress import ConsoleProgress

if TYPE_CHECKING:
    from haiftrace.gate_outcome import FailOn
    from haiftrace.tracing.tracer import Tracer

MEMORY = 512 << 20
"""Bytes that a backward pass may take, by default."""


class CorpusIndex(AbstractContextManager["CorpusIndex"]):
    """An index and the checkpoint it was made from, opened together (`haiftrace.Index`).

    Attributes:
        path: of the index.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.path = Path(tracer.index.path)

    @classmethod
    def build(
        cls,
        model: str | Path,
        corpus: str | Path | Sequence[str | Path],
        *,
        output: str | Path = INDEX_DIRECTORY,
        text_field: str = "text",
        group_field: str | None = None,
        loss_on: Literal["all", "response"] = "all",
        append_eos: bool = False,
        methods: str | None = None,
        controls: int | None = None,
        device: str = "auto",
        memory: int = MEMORY,
        overwrite: bool = False,
        quiet: bool = True,
    ) -> CorpusIndex:
        """Indexes a corpus under a checkpoint and calibrates verdicts, as `haiftrace index` does.

        An interrupted call goes on where it stopped, and a complete index is opened.

        Args:
            model: directory of the checkpoint.
            corpus: files, globs or directories.
            output: directory of the index, or the URI of one in a store (see `haiftrace index`).
            methods: names with commas between, whose needs and verdicts are kept too.
            controls: control queries of the calibration; None for as many as cost about what
                indexing did, 0 for none.
            memory: bytes that a backward pass may take.
            quiet: show no progress on stderr.

        Raises:
            HaiftraceError: whatever is wrong with checkpoint, corpus or settings.
        """
        from haiftrace.checkpoint.load import load_checkpoint
        from haiftrace.completion import Completion, complete_index, with_default
        from haiftrace.corpus import CorpusSettings
        from haiftrace.index.build import IndexSettings, build_index
        from haiftrace.index.precompute import check_needs

        paths = [corpus] if isinstance(corpus, str | Path) else corpus
        read = CorpusSettings(
            tuple(map(str, paths)), text_field, loss_on=loss_on, group_field=group_field
        )
        settings = IndexSettings(
            index_directory(output), append_eos=append_eos, memory=memory, overwrite=overwrite
        )
        wanted = Completion(methods, with_default(methods), controls=controls, memory=memory)
        with ConsoleProgress(quiet, shown) as progress, written(settings.output, progress):
            checkpoint = load_checkpoint(str(model), device=device)
            if methods is not None:
                check_needs(checkpoint, None, methods, wanted.settings)
            build_index(checkpoint, read, settings, progress)
            complete_index(settings.output, checkpoint, wanted, progress)
        return cls.open(output, model=model, device=device, memory=memory)

    @classmethod
    def open(
        cls,
        path: str | Path = INDEX_DIRECTORY,
        *,
        model: str | Path | None = None,
        device: str = "auto",
        memory: int = MEMORY,
    ) -> CorpusIndex:
        """Opens an index and its checkpoint.

        Args:
            model: where the checkpoint is now, if it was moved.
            memory: bytes that a backward pass may take.

        Raises:
            HaiftraceError: either cannot be opened, or they do not belong together.
        """
        from haiftrace.tracing.tracer import open_tracer

        directory = index_directory(path)
        with ConsoleProgress(quiet=True, shown=shown) as progress:
            fetched(directory, progress)
        checkpoint = None if model is None else str(model)
        return cls(open_tracer(directory, checkpoint, device, memory, place_name(directory)))

    def __len__(self) -> int:
        """How many records it holds."""
        return self._tracer.index.manifest.totals.records

    def trace(
        self,
        prompt: str,
        response: str | None = None,
        *,
        span: str | None = None,
        whole_response: bool = False,
        protect: Sequence[str] = (),
        quiet: bool = True,
        **settings: Any,
    ) -> TraceReport:
        """The records that made a response likelier, and the verdict.

        Args:
            response: the leak; generated by the checkpoint when None.
            span: the characters of the response that are traced; None for each private value by
                itself, and each sentence without one.
            whole_response: trace the response as one.
            protect: values that the answer must not hold, masked in every report.
            settings: of `haiftrace trace`: method, top, candidates, exact, alpha, template, chat,
                system, max_new_tokens, stop, sampling (a `Sampling`), methods (a
                `MethodSettings`).

        Raises:
            UsageError: the response cannot be traced.
        """
        from haiftrace.auditing.corpus_regions import with_corpus_regions
        from haiftrace.auditing.gate import GateSettings
        from haiftrace.auditing.probes import single_probe
        from haiftrace.auditing.single import trace_response
        from haiftrace.privacy import DetectionSettings

        detection = with_corpus_regions(self._tracer.index, DetectionSettings())
        probe = single_probe(prompt, response, protect, detection=detection)
        with ConsoleProgress(quiet, shown) as progress:
            report = trace_response(
                self._tracer,
                probe,
                _settings(settings),
                progress,
                GateSettings(detection=detection),
                span=span,
                whole_response=whole_response,
            )
        return TraceReport(report, protect, detection)

    def audit(
        self,
        probes: str | Path | Iterable[Mapping[str, Any]],
        *,
        fail_on: FailOn = "leak",
        max_leaks: int = 0,
        baseline: str | Path | None = None,
        baseline_key: str | Path | None = None,
        quiet: bool = True,
        **settings: Any,
    ) -> TraceReport:
        """Answers every probe, and traces the private values in the answers.

        Args:
            probes: a JSONL file, or mappings with `prompt` or `messages`, and where they are known
                `system`, `response`, `protected` and `id`.
            fail_on, max_leaks: what `report.report.gate` lets pass.
            baseline: an earlier JSON report, whose leaks are known and pass, each for its value.
            baseline_key: a file with the key by which reports tell values apart exactly; made,
                private, where there is none.
            settings: as of `trace`.

        Raises:
            UsageError: a probe, a setting, the baseline or its key cannot be used.
            OutputError: a new key cannot be written.
        """
        from haiftrace.auditing.audit import audit as audit_checkpoint
        from haiftrace.auditing.baseline import read_baseline, read_key
        from haiftrace.auditing.corpus_regions import with_corpus_regions
        from haiftrace.auditing.gate import GateSettings
        from haiftrace.auditing.probes import probe_cases, read_probes
        from haiftrace.privacy import DetectionSettings

        cases = read_probes(str(probes)) if isinstance(probes, str | Path) else probe_cases(probes)
        detection = with_corpus_regions(self._tracer.index, DetectionSettings())
        cases = [replace(case, detection=detection) for case in cases]
        known = None if baseline is None else read_baseline(str(baseline))
        with ConsoleProgress(quiet, shown) as progress:
            named = None if baseline_key is None else str(baseline_key)
            key = read_key(named, known, progress.say)
            gate = GateSettings(fail_on, max_leaks, known, key, detection=detection)
            result = audit_checkpoint(self._tracer, cases, _settings(settings), gate, progress)
        return TraceReport(result.report, result.values, detection)

    def close(self) -> None:
        """Closes the index's files."""
        self._tracer.index.close()

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()


def trace(
    prompt: str,
    response: str | None = None,
    *,
    index: str | Path = INDEX_DIRECTORY,
    model: str | Path | None = None,
    device: str = "auto",
    **settings: Any,
) -> TraceReport:
    """Traces one leak over an index; see `CorpusIndex.trace`.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or response.
    """
    with CorpusIndex.open(index, model=model, device=device) as opened:
        return opened.trace(prompt, response, **settings)


def audit(
    probes: str | Path | Iterable[Mapping[str, Any]],
    *,
    index: str | Path = INDEX_DIRECTORY,
    model: str | Path | None = None,
    device: str = "auto",
    **settings: Any,
) -> TraceReport:
    """Audits a checkpoint over an index; see `CorpusIndex.audit`.

    Raises:
        HaiftraceError: whatever is wrong with index, checkpoint or probes.
    """
    with CorpusIndex.open(index, model=model, device=device) as opened:
        return opened.audit(probes, **settings)


_PROMPTING = (
    "template",
    "chat",
    "system",
    "max_new_tokens",
    "stop",
    "loss_on_all",
    "sampling",
)


def _settings(named: Mapping[str, Any]) -> Any:
    """Settings of a trace, those of the prompt among the others.

    Raises:
        TypeError: there is no such setting.
    """
    from haiftrace.query.prompt_text import PromptSettings
    from haiftrace.tracing.settings import TraceSettings

    prompting = {name: value for name, value in named.items() if name in _PROMPTING}
    if "stop" in prompting:
        prompting["stop"] = tuple(prompting["stop"])
    others = {name: value for name, value in named.items() if name not in _PROMPTING}
    return TraceSettings(prompting=PromptSettings(**prompting), **others)
