"""Options of `haiftrace trace`: what is traced, over what, how, and where the report goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from haiftrace.commands.index_location import INDEX_DIRECTORY
from haiftrace.commands.index_options import (
    CorpusOptions,
    IdsField,
    Limit,
    RecordFormatOption,
    SampleRecords,
    TextTemplate,
)
from haiftrace.commands.options import IndexOption, Option
from haiftrace.commands.panels import ASKING, CORPUS, METHODS
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.corpus import CorpusSettings
    from haiftrace.query.prompt_text import PromptSettings


@dataclass(frozen=True)
class SourceOptions:
    """The index and its checkpoint, or a corpus that is indexed for the one run."""

    PANEL: ClassVar[str] = CORPUS
    COMMON: ClassVar[tuple[str, ...]] = ("index", "model", "corpus")

    index: Annotated[Path, IndexOption(help="Directory or URI of the index.")] = INDEX_DIRECTORY
    model: Annotated[
        str | None,
        Option(help="Where the indexed checkpoint is now, if it was moved; or that of --corpus."),
    ] = None
    corpus: Annotated[
        list[str] | None,
        Option(
            help="With --model: index this corpus for the one run, and keep nothing; as --corpus of"
            " haiftrace index; repeatable."
        ),
    ] = None
    text_field: Annotated[str, Option(help="Field of a record's text in --corpus.")] = "text"
    group_field: Annotated[
        str | None, Option(help="Field of --corpus that records on one subject share.")
    ] = None
    format: RecordFormatOption = None
    text_template: TextTemplate = None
    ids_field: IdsField = None
    limit: Limit = None
    sample_records: SampleRecords = None

    def check(self) -> None:
        """Raises UsageError for options that would do nothing with, or without, --corpus."""
        if self.corpus and self.index != INDEX_DIRECTORY:
            raise UsageError(
                "--index and --corpus exclude each other: a corpus is indexed for the one run.",
                "Give one of them.",
            )
        named = {
            "--text-field": self.text_field != "text",
            "--group-field": self.group_field is not None,
            "--format": self.format is not None,
            "--text-template": self.text_template is not None,
            "--ids-field": self.ids_field is not None,
            "--limit": self.limit is not None,
            "--sample-records": self.sample_records is not None,
        }
        for name in (name for name, used in named.items() if used and not self.corpus):
            raise UsageError(
                f"{name} goes with --corpus: an index has its own.",
                "Give --corpus too, or leave it out.",
            )

    def corpus_settings(self, seed: int = 0) -> CorpusSettings:
        """How --corpus is read.

        Args:
            seed: of the draw of --sample-records.
        """
        return CorpusOptions(
            corpus=self.corpus,
            text_field=self.text_field,
            group_field=self.group_field,
            format=self.format,
            text_template=self.text_template,
            ids_field=self.ids_field,
            limit=self.limit,
            sample_records=self.sample_records,
        ).settings(seed)


@dataclass(frozen=True)
class QueryOptions:
    """The response that is traced, and how the model is asked."""

    PANEL: ClassVar[str] = ASKING
    COMMON: ClassVar[tuple[str, ...]] = ("response",)

    response: Annotated[
        str | None,
        Option(help="The leak, - for stdin.", show_default="what the checkpoint answers"),
    ] = None
    span: Annotated[str | None, Option(help="Trace this part of the response only.")] = None
    whole: Annotated[
        bool,
        Option("--whole", help="Trace the response as one, not each value and sentence by itself."),
    ] = False
    template: Annotated[str | None, Option(help="Text around the prompt, with {prompt} in it.")] = (
        None
    )
    chat: Annotated[
        bool | None,
        Option(
            "--chat/--no-chat",
            help="Ask by the chat template, or not.",
            show_default="--chat over an index of chats",
        ),
    ] = None
    system: Annotated[
        str | None,
        Option(
            help="The system's text of a chat, empty for none.", show_default="that of the corpus"
        ),
    ] = None
    max_new_tokens: Annotated[int, Option(help="Length of a generated answer.", min=1)] = 64
    stop: Annotated[
        list[str] | None, Option(help="Text at which a generated answer ends; repeatable.")
    ] = None
    sample: Annotated[
        int | None,
        Option(
            help="Beside the greedy answer, draw so many by --seed: each distinct value, or answer"
            " without one, is a finding that says how often.",
            min=1,
        ),
    ] = None
    temperature: Annotated[
        float | None, Option(help="Of the answers of --sample.", show_default="1")
    ] = None
    loss_on: Annotated[
        Literal["all", "response"], Option(help="Trace the prompt's tokens too: all.")
    ] = "response"

    def prompting(self, seed: int = 0) -> PromptSettings:
        """How prompt and response become one string.

        Args:
            seed: of the answers that --sample draws.

        Raises:
            UsageError: options of drawn answers that would do nothing, or draw nothing.
        """
        from haiftrace.query.prompt_text import PromptSettings
        from haiftrace.query.sampling import Sampling

        for name, given in (("--response", self.response), ("--span", self.span)):
            if self.sample is not None and given is not None:
                raise UsageError(
                    f"--sample asks the model, and {name} says what it answered.",
                    "Give one of them.",
                )
        if self.temperature is not None and self.sample is None:
            raise UsageError(
                "--temperature goes with --sample N: without it the answer is greedy.",
                "Give --sample too, or leave it out.",
            )
        temperature = 1.0 if self.temperature is None else self.temperature
        return PromptSettings(
            template=self.template,
            chat=self.chat,
            system=self.system,
            max_new_tokens=self.max_new_tokens,
            stop=tuple(self.stop or ()),
            loss_on_all=self.loss_on == "all",
            sampling=None if self.sample is None else Sampling(self.sample, temperature, seed),
        )


@dataclass(frozen=True)
class SearchOptions:
    """What ranks records, and how many are scored."""

    PANEL: ClassVar[str] = METHODS
    COMMON: ClassVar[tuple[str, ...]] = ("method", "top")

    method: Annotated[
        str,
        Option(
            help="layerwise, haif, haif-t, gradient-product, gradient-cosine, tracincp, lissa,"
            " ek-fac, relatif, attif, ahif, bm25 or bm25-answer; several with commas between."
        ),
    ] = "layerwise"
    top: Annotated[int, Option(help="Records to show.", min=1)] = 5
    candidates: Annotated[
        int, Option(help="Record windows that the search proposes for exact scoring.", min=1)
    ] = 256
    exact: Annotated[bool, Option("--exact", help="Score every record.")] = False
    alpha: Annotated[float, Option(help="Share of false accusations that a verdict may make.")] = (
        0.01
    )


@dataclass(frozen=True)
class OutputOptions:
    """Where the report goes, and how much of it the terminal shows."""

    output: Annotated[
        list[str] | None,
        Option(
            "--output",
            "-o",
            help="Also write the report here, by suffix: .json, .jsonl, .sarif, .html, .md, .svg (a"
            " figure of a trace); - is JSON on stdout; repeatable.",
        ),
    ] = None
    sources: Annotated[
        str | None,
        Option(help="Also write the records to remove or redact, for haiftrace redact: JSONL."),
    ] = None
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Show the figures behind the words, too.")
    ] = False
    full: Annotated[
        bool,
        Option(
            "--full",
            help="Show long records whole; in JSON the evidence of all records, and all digits.",
        ),
    ] = False
    below: Annotated[
        bool, Option("--all", help="Show the records that chance alone may rank, too.")
    ] = False

    def check(self, prompt: str | None) -> None:
        """Raises UsageError for a figure of an audit, which has more leaks than one holds."""
        figures = [path for path in self.paths if path.lower().endswith(".svg")]
        if figures and prompt is None:
            raise UsageError(
                f"A figure is of a trace, and '{figures[0]}' would be of an audit.",
                "Write report.json, and choose a leak of it: haiftrace report report.json"
                " --finding FINGERPRINT -o figure.svg",
            )

    @property
    def paths(self) -> list[str]:
        """Files to write, `-` for stdout."""
        return list(self.output or ())
