"""Which corpus is read and how, and the fingerprint of both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.files import content_hash, find_files
from haiftrace.errors import CorpusError

LossOn = Literal["all", "response"]

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

    Raises:
        CorpusError: no paths, or an unknown `loss_on`.
    """

    paths: tuple[str, ...]
    text_field: str = DEFAULT_TEXT_FIELD
    id_field: str | None = None
    loss_on: LossOn = "all"
    skip_bad_lines: bool = False
    group_field: str | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise CorpusError("No corpus was named.", "Give a file, a glob or a directory.")
        if self.loss_on not in get_args(LossOn):
            raise CorpusError(
                f"The loss cannot be on '{plain(str(self.loss_on))}'.",
                "Use --loss-on all or --loss-on response.",
            )


def corpus_files(settings: CorpusSettings) -> list[Path]:
    """The corpus files in reading order. Raises CorpusError as `find_files` does."""
    return [file.path for file in find_files(settings.paths)]


def fingerprint(settings: CorpusSettings) -> str:
    """SHA-256 (hex) of the corpus and of the settings that change how it is read.

    It does not depend on the working directory, nor on where the corpus lies.

    Raises:
        CorpusError: as `find_files` does, or a file cannot be read.
    """
    s = settings
    how = [_READER, s.text_field, s.id_field, s.loss_on, s.skip_bad_lines]
    if s.group_field is not None:
        how.append(s.group_field)
    return content_hash(find_files(s.paths), json.dumps(how).encode())
