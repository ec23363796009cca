"""Raw rows out of a corpus file, one at a time, and the rows of files that have one a line.

Memory stays at one line, of at most `MAX_ROW_BYTES`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from haiftrace.corpus.corpus_file import CorpusFile, unreadable
from haiftrace.errors import CorpusError

MAX_ROW_BYTES = 64 << 20
"""A longer row is refused."""

BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"
BAD_ENCODING = "invalid UTF-8"


@dataclass(frozen=True)
class Row:
    """One row of a file, or what is wrong with it.

    Attributes:
        line: 1-based line on which it begins; for Parquet the 1-based row number.
        value: a string (text files), else whatever the JSON or Parquet row holds.
        problem: empty, else why `value` could not be read; never quotes the file.
        nth: 1 for the first object that begins on this line, 2 for the second, and so on.
        columns: all columns of a Parquet file, of which `value` holds only the requested ones.
    """

    line: int
    value: Any = None
    problem: str = ""
    nth: int = 1
    columns: tuple[str, ...] = ()


@contextmanager
def open_corpus_file(file: CorpusFile) -> Iterator[IO[bytes]]:
    """`file` as a buffered stream of decompressed bytes; system errors become CorpusErrors."""
    try:
        if file.codec is None:
            with open(file.path, "rb", buffering=BLOCK) as stream:
                yield stream
            return
        import pyarrow as pa

        if not pa.Codec.is_available(file.codec):
            raise CorpusError(
                f"{file.shown} is compressed with {file.codec}, which this pyarrow cannot read.",
                f"Decompress it, or install a pyarrow that was built with {file.codec}.",
            )
        with (
            open(file.path, "rb") as raw,
            pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), file.codec) as inflated,
            io.BufferedReader(inflated, BLOCK) as stream,
        ):
            yield stream
    except (OSError, EOFError) as error:
        raise unreadable(file.shown, error) from error


def read_lines(file: CorpusFile, parse: Callable[[str], Any]) -> Iterator[Row]:
    """A row a line, but for blank ones; what `parse` raises ValueError for is a problem."""
    with open_corpus_file(file) as stream:
        number = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(BLOCK)
                yield Row(number, problem=f"a line of more than {MAX_ROW_BYTES} bytes")
                continue
            if number == 1:
                raw = raw.removeprefix(BOM)
            try:
                text = raw.decode("utf-8")
                if not text or text.isspace():
                    continue
                row = Row(number, parse(text))
            except UnicodeDecodeError as error:
                row = Row(number, problem=f"{BAD_ENCODING} (byte {error.start + 1} of the line)")
            except (ValueError, RecursionError) as error:
                row = Row(number, problem=malformed(error))
            yield row


def malformed(error: Exception) -> str:
    """What is wrong with a piece of JSON, without quoting it."""
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON ({reason(error)}, column {error.colno})"
    if isinstance(error, RecursionError):
        return "malformed JSON (nested too deeply)"
    return "malformed JSON (a number with too many digits)"


def reason(error: json.JSONDecodeError) -> str:
    """The decoder's message without what it quotes."""
    # What follows a colon may quote the text.
    return error.msg.partition(":")[0].removesuffix(" at").removesuffix(" starting")
