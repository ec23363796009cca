"""Options of `haiftrace index`: the corpus, and how its index is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from haiftrace.commands.index_location import INDEX_DIRECTORY
from haiftrace.commands.options import IndexOption, Option
from haiftrace.commands.panels import CORPUS, EXPERT

if TYPE_CHECKING:
    from haiftrace.corpus import CorpusSettings
    from haiftrace.index.build import IndexSettings

# Options that `haiftrace trace` has too, for a corpus that is indexed for one run.
RecordFormatOption = Annotated[
    Literal["text", "messages", "prompt-completion", "sharegpt", "alpaca"] | None,
    Option(
        "--format",
        help="How every record is laid out.",
        show_default="recognised by its fields, and said",
    ),
]
TextTemplate = Annotated[
    str | None,
    Option(
        help="Text of a record from several fields, like 'Q: {question} A: {answer}'; with"
        r" --loss-on response from the last field on; \n is a line feed."
    ),
]
IdsField = Annotated[
    str | None, Option(help="Field of token ids, for sequences that training packed itself.")
]
Limit = Annotated[int | None, Option(help="Read the first so many records only.", min=1)]
SampleRecords = Annotated[
    int | None, Option(help="Draw so many records by --seed, for a first look.", min=1)
]


@dataclass(frozen=True)
class CorpusOptions:
    """The corpus, and how its records are read."""

    PANEL: ClassVar[str] = CORPUS
    COMMON: ClassVar[tuple[str, ...]] = ("corpus",)

    corpus: Annotated[
        list[str] | None,
        Option(
            help="JSONL, JSON, CSV, TSV, Parquet, Arrow or text: a file, a glob, a directory or a"
            " saved data set; repeatable."
        ),
    ] = None
    format: RecordFormatOption = None
    text_field: Annotated[
        str, Option(help="Field of a record's text; a.b for a field in another.")
    ] = "text"
    text_template: TextTemplate = None
    ids_field: IdsField = None
    id_field: Annotated[
        str | None, Option(help="Field of a record's id.", show_default="id, else path:line")
    ] = None
    group_field: Annotated[
        str | None,
        Option(help="Field that records on one subject share; a control leaves all of them out."),
    ] = None
    loss_on: Annotated[
        Literal["all", "response"], Option(help="What training put the loss on.")
    ] = "all"
    skip_bad_lines: Annotated[
        bool, Option("--skip-bad-lines", help="Leave out and count what is no record.")
    ] = False
    limit: Limit = None
    sample_records: SampleRecords = None

    def settings(self, seed: int = 0) -> CorpusSettings:
        """How the corpus is read.

        Args:
            seed: of the draw of --sample-records.
        """
        from haiftrace.corpus import CorpusSettings
        from haiftrace.corpus.layouts import typed_template

        return CorpusSettings(
            tuple(self.corpus or ()),
            text_field=self.text_field,
            id_field=self.id_field,
            loss_on=self.loss_on,
            skip_bad_lines=self.skip_bad_lines,
            group_field=self.group_field,
            format=self.format,
            text_template=typed_template(self.text_template) if self.text_template else None,
            ids_field=self.ids_field,
            limit=self.limit,
            sample_records=self.sample_records,
            seed=seed,
        )


@dataclass(frozen=True)
class IndexOptions:
    """The index, and what changes its numbers."""

    PANEL: ClassVar[str] = EXPERT
    COMMON: ClassVar[tuple[str, ...]] = ("output", "overwrite")

    output: Annotated[
        Path,
        IndexOption(
            "--output",
            "-o",
            help="Directory of the index, or the URI of one in a store that pyarrow opens:"
            " s3://BUCKET/DIR, gs://, hdfs://; a private working copy stays in HAIFTRACE_CACHE"
            " (by default ~/.cache/haiftrace).",
        ),
    ] = INDEX_DIRECTORY
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace another index in that directory.")
    ] = False
    parameters: Annotated[
        str | None,
        Option(
            help="Which parameters count for methods of full gradients: linear, attention, value,"
            " mlp, last-half, adapter (LoRA's own matrices, for layerwise too), matrices, all, or a"
            " regular expression over their names.",
            show_default="linear",
        ),
    ] = None
    append_eos: Annotated[
        bool, Option("--append-eos", help="Training ended each record with end-of-text.")
    ] = False
    context: Annotated[
        int | None,
        Option(help="Tokens of a window.", show_default="the model's context, at most 1024"),
    ] = None
    token_vectors: Annotated[
        int, Option(help="Dimensions of a token's vector, a bit each; 0 keeps none.")
    ] = 2048
    faiss: Annotated[
        str,
        Option(
            metavar="STRING",
            help="Search over token vectors: Flat scans all, a factory string of FAISS such as"
            " BIVF1024 or IVF1024,PQ32 makes an inverted file; auto makes one beyond 4,000,000"
            " tokens.",
        ),
    ] = "auto"
    whitening_damping: Annotated[
        float, Option(help="λ of the whitening of direct gradients, in mean eigenvalues.")
    ] = 0.1
    seed: Annotated[
        int, Option(help="Seed of the projection, of samples and of control queries.")
    ] = 0

    shard_records: Annotated[
        int,
        Option(help="Most records of a file of the index; fewer where they take minutes.", min=1),
    ] = 512

    def settings(self, memory: int) -> IndexSettings:
        """How the index is made.

        Args:
            memory: bytes that a backward pass may take.
        """
        from haiftrace.index.build import IndexSettings

        return IndexSettings(
            output=self.output,
            parameters=self.parameters,
            context=self.context,
            append_eos=self.append_eos,
            token_vectors=self.token_vectors,
            faiss=self.faiss,
            whitening_damping=self.whitening_damping,
            seed=self.seed,
            shard_records=self.shard_records,
            overwrite=self.overwrite,
            memory=memory,
        )


@dataclass(frozen=True)
class SupplementOptions:
    """What is kept in the index beside its rows."""

    method: Annotated[
        str | None,
        Option(
            "--method",
            "--methods",
            help="Also keep in the index what these methods need, with commas between; without"
            " --model and --corpus it is added to a complete index.",
        ),
    ] = None
    calibrate: Annotated[
        int | None,
        Option(
            help="Control queries that trace's verdicts are calibrated by, 0 for none; for"
            " layerwise and --method. Without --model and --corpus it is added to a complete"
            " index.",
            min=0,
            show_default="512, or as many as cost about what indexing does",
        ),
    ] = None
