"""Which corpus is read and how, and the fingerprint of both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.files import content_hash, find_files
from haiftrace.errors import CorpusError

LossOn = Literal["all", "response"]

RecordFormat = Literal["text", "messages", "prompt-completion", "sharegpt", "alpaca"]
"""The layouts of `haiftrace.corpus.layouts` that can be named."""

DEFAULT_TEXT_FIELD = "text"
DEFAULT_ID_FIELD = "id"

# Within the fingerprint: raise it when the same files begin to be read differently.
_READER = "haiftrace-corpus-1"


@dataclass(frozen=True)
class CorpusSettings:
    """What to read, and how.

    Attributes:
        paths: files, globs and directories, as the user gave them.
        text_field: the field that holds the text. Another one than "text" must be in every record.
        id_field: the field that holds the record's id, in every record, a string or an integer.
            None takes the field "id" where it is one of these, else `path:line`; an empty string
            takes `path:line` always.
        loss_on: "all", or "response" where training put the loss on the response (or on the
            assistant's messages) only.
        skip_bad_lines: leave out and count what cannot be read as a record, instead of stopping.
        group_field: the field whose value is the same in records on the same subject, a string or
            an integer; a record without it is on its own.
        format: the layout of every record; recognised by its fields when None.
        text_template: text with field names in braces, which every record is rendered with.
        ids_field: the field that holds a record's token ids.
        limit: the most records that are read, the first ones.
        sample_records: how many records are drawn from these, in their order; all when None.
        seed: of that draw.
        base: directory that files are shown relative to; the working directory when None. It
            changes the paths of records, and the ids of those without an id of their own.

    `text_field`, `id_field`, `group_field` and `ids_field` may be paths into nested fields
    (`haiftrace.corpus.field_paths`). With the formats "messages" and "sharegpt", `text_field` names
    the field of the messages.

    Raises:
        CorpusError: no paths, an unknown `loss_on` or `format`, a template without a field, a
            number of records below 1, or settings that exclude each other.
    """

    paths: tuple[str, ...]
    text_field: str = DEFAULT_TEXT_FIELD
    id_field: str | None = None
    loss_on: LossOn = "all"
    skip_bad_lines: bool = False
    group_field: str | None = None
    format: RecordFormat | None = None
    text_template: str | None = None
    ids_field: str | None = None
    limit: int | None = None
    sample_records: int | None = None
    seed: int = 0
    base: str | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise CorpusError("No corpus was named.", "Give a file, a glob or a directory.")
        if self.loss_on not in get_args(LossOn):
            raise CorpusError(
                f"The loss cannot be on '{plain(str(self.loss_on))}'.",
                "Use --loss-on all or --loss-on response.",
            )
        if self.format is not None and self.format not in get_args(RecordFormat):
            raise CorpusError(
                f"There is no format '{plain(str(self.format))}' of records.",
                f"Formats: {', '.join(get_args(RecordFormat))}. What kind of file it is, is told by"
                " the file's suffix.",
            )
        for name, number in (("--limit", self.limit), ("--sample-records", self.sample_records)):
            if number is not None and number < 1:
                raise CorpusError(f"{name} takes a number of records, at least 1.", "Leave it out.")
        self._check_layout()

    def _check_layout(self) -> None:
        if self.text_template is not None:
            from haiftrace.corpus.layouts import template_pieces  # which knows these settings

            template_pieces(self.text_template)
        named = {
            "--format": self.format is not None,
            "--text-field": self.text_field != DEFAULT_TEXT_FIELD,
            "--text-template": self.text_template is not None,
            "--ids-field": self.ids_field is not None,
        }
        chosen = [name for name, given in named.items() if given]
        if chosen == ["--format", "--text-field"]:
            if self.format in ("prompt-completion", "alpaca"):
                raise CorpusError(
                    f"--text-field names one field, and the format {self.format} has several.",
                    "Leave one of them out, or name the fields with --text-template.",
                )
        elif len(chosen) > 1:
            raise CorpusError(
                f"{' and '.join(chosen)} exclude each other: each says how a record is read.",
                "Give one of them.",
            )

    @property
    def lines_are_records(self) -> bool:
        """Whether a line of a text file can be a record."""
        elsewhere = (self.text_template, self.ids_field)
        return self.format in (None, "text") and elsewhere == (None, None)

    def kept(self) -> dict[str, Any]:
        """How records are read, for an index to keep; what is new in it only where it is given."""
        later = {
            "group_field": self.group_field,
            "format": self.format,
            "text_template": self.text_template,
            "ids_field": self.ids_field,
            "limit": self.limit,
            "sample_records": self.sample_records,
            "seed": None if self.sample_records is None else self.seed,
        }
        return {
            "text_field": self.text_field,
            "id_field": self.id_field,
            "loss_on": self.loss_on,
            "skip_bad_lines": self.skip_bad_lines,
            **{name: value for name, value in later.items() if value is not None},
        }


def corpus_files(settings: CorpusSettings) -> list[Path]:
    """The corpus files in reading order. Raises CorpusError as `find_files` does."""
    return [file.path for file in find_files(settings.paths)]


def fingerprint(settings: CorpusSettings) -> str:
    """SHA-256 (hex) of the corpus and of the settings that change how it is read.

    It does not depend on the working directory, nor on where the corpus lies.

    Raises:
        CorpusError: as `find_files` does, or a file cannot be read.
    """
    kept = settings.kept()
    first = ("text_field", "id_field", "loss_on", "skip_bad_lines")
    how: list[Any] = [_READER, *(kept.pop(name) for name in first)]
    if "group_field" in kept:
        how.append(kept.pop("group_field"))
    if kept:
        how.append(kept)
    return content_hash(find_files(settings.paths), json.dumps(how).encode())
