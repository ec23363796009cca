"""Use case: a corpus without the records that were named as sources, or with the values in them
masked; never in place.

Corpora of a record a line are copied line by line, byte for byte but for what is changed.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from haiftrace.atomic_write import replace_atomically
from haiftrace.auditing.sources import NamedRecord
from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.files import find_files
from haiftrace.errors import OutputError, UsageError

REDACTED = "[redacted]"
_LINE_FORMATS = ("jsonl", "text")


@dataclass(frozen=True)
class Redaction:
    """What became of a corpus: how many records were dropped, and in how many values masked."""

    dropped: int
    masked: int
    left: int


def redact(
    corpus: str, records: Sequence[NamedRecord], output: str, *, mask: bool, text_field: str
) -> Redaction:
    """Copies a corpus file without these records.

    Args:
        corpus: a file with a record a line, as it was indexed.
        mask: mask the values in a record where their places are known, and drop it otherwise.
        text_field: of a record's text.

    Raises:
        UsageError: it is no such file, or does not hold the records.
        OutputError: the output cannot be written.
    """
    file = _single_file(corpus)
    by_line = _by_line(records, file)
    if not by_line:
        raise UsageError(
            f"None of the {len(records)} records stands in {file.shown}.",
            "Give the corpus file that was indexed, under the path it had then.",
        )
    target = Path(output)
    if os.path.realpath(target) == os.path.realpath(file.path):
        raise OutputError(
            "The corpus is never changed in place.", "Give another file with -o clean.jsonl."
        )
    counts = {"dropped": 0, "masked": 0, "left": 0}

    def fill(sink: IO[bytes]) -> None:
        with open(file.path, "rb") as lines:
            for line in _redacted(lines, by_line, file.format, mask, text_field, counts):
                sink.write(line)

    try:
        replace_atomically(target, fill)
    except OSError as error:
        raise OutputError(
            f"'{output}' cannot be written: {error.strerror or error}.", "Give another path."
        ) from error
    return Redaction(**counts)


def _single_file(corpus: str) -> CorpusFile:
    files = find_files([corpus])
    if len(files) != 1 or files[0].format not in _LINE_FORMATS or files[0].codec is not None:
        raise UsageError(
            f"'{corpus}' is not a single uncompressed file with a record a line.",
            "Redact one JSONL or text file at a time; write other formats as JSONL first.",
        )
    return files[0]


def _by_line(records: Sequence[NamedRecord], file: CorpusFile) -> dict[int, NamedRecord]:
    """The records of a file by their lines: by its path, else, where it was moved, by its name.

    Raises:
        UsageError: its name alone may mean several files.
    """
    here = os.path.realpath(file.path)
    by_path: dict[str, dict[int, NamedRecord]] = {}
    for record in records:
        if record.source.line is not None:
            by_path.setdefault(record.source.path, {})[record.source.line] = record
    for path, by_line in by_path.items():
        if os.path.realpath(path) == here:
            return by_line
    moved = [path for path in by_path if _may_have_been(path, file.path)]
    if len(moved) > 1:
        raise UsageError(
            f"{file.shown} may be any of {len(moved)} files of this name that records stand in.",
            "Give the corpus file that was indexed, under the path it had then.",
        )
    return by_path[moved[0]] if moved else {}


def _may_have_been(path: str, moved: Path) -> bool:
    """Whether a file of this path was moved or copied there: what it holds says so if it is."""
    if Path(path).name != moved.name:
        return False
    return not os.path.isfile(path) or filecmp.cmp(path, moved, shallow=False)


def _redacted(
    lines: IO[bytes],
    by_line: dict[int, NamedRecord],
    form: str,
    mask: bool,
    text_field: str,
    counts: dict[str, int],
) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        record = by_line.get(number)
        if record is None:
            counts["left"] += 1
            yield line
            continue
        masked = _masked(line, record, form, text_field) if mask and record.spans else None
        if masked is None:
            counts["dropped"] += 1
        else:
            counts["masked"] += 1
            yield masked


def _masked(line: bytes, record: NamedRecord, form: str, text_field: str) -> bytes | None:
    """A line with its values masked; None where the text is not a field of its own."""
    end = b"\n" if line.endswith(b"\n") else b""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if form == "text":
        return _without(text, record).encode() + end
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get(text_field), str):
        return None
    content[text_field] = _without(content[text_field], record)
    return json.dumps(content, ensure_ascii=False).encode() + end


def _without(text: str, record: NamedRecord) -> str:
    for start, stop in sorted(record.spans or (), reverse=True):
        text = text[:start] + REDACTED + text[stop:]
    return text
