"""Raw rows out of a corpus file, one at a time: lines, JSON objects, Parquet rows.

Memory stays at one line (at most `MAX_ROW_BYTES`), one object or one small Parquet batch.
"""

from __future__ import annotations

import codecs
import io
import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from haiftrace.corpus.files import CorpusFile, plain, unreadable
from haiftrace.errors import CorpusError

MAX_ROW_BYTES = 64 << 20
PARQUET_BATCH_ROWS = 64

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_ENCODING = "invalid UTF-8"


@dataclass(frozen=True)
class Row:
    """One row of a file, or what is wrong with it.

    Attributes:
        line: 1-based line on which it begins; for Parquet the 1-based row number.
        value: a string (text files), else whatever the JSON or Parquet row holds.
        problem: empty, else why `value` could not be read; never quotes the file.
        nth: 1 for the first object that begins on this line, 2 for the second, and so on.
        columns: all columns of a Parquet file, of which `value` holds only those asked for.
    """

    line: int
    value: Any = None
    problem: str = ""
    nth: int = 1
    columns: tuple[str, ...] = ()


def read_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The rows of `file` in order; of a Parquet file only `columns`. Blank lines are no rows.

    Raises:
        CorpusError: the file cannot be opened, is broken, or needs a codec that is not there. What
            is wrong with a single row comes as its `problem` wherever the rest can still be read.
    """
    if file.format == "parquet":
        yield from _parquet(file, columns)
    elif file.format == "text":
        yield from _lines(file, lambda line: line.rstrip("\n").removesuffix("\r"))
    elif file.format == "json" and _first_character(file) == b"[":
        yield from _json_list(file)
    else:
        yield from _lines(file, _loads)


@contextmanager
def _open(file: CorpusFile) -> Iterator[IO[bytes]]:
    """`file` as a buffered stream of decompressed bytes; system errors become CorpusErrors."""
    try:
        if file.codec is None:
            with open(file.path, "rb", buffering=_BLOCK) as stream:
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
            io.BufferedReader(inflated, _BLOCK) as stream,
        ):
            yield stream
    except (OSError, EOFError) as error:
        raise unreadable(file.shown, error) from error


def _lines(file: CorpusFile, parse: Callable[[str], Any]) -> Iterator[Row]:
    with _open(file) as stream:
        number = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(_BLOCK)
                yield Row(number, problem=f"a line of more than {MAX_ROW_BYTES} bytes")
                continue
            if number == 1:
                raw = raw.removeprefix(_BOM)
            try:
                text = raw.decode("utf-8")
                if not text or text.isspace():
                    continue
                row = Row(number, parse(text))
            except UnicodeDecodeError as error:
                row = Row(number, problem=f"{_ENCODING} (byte {error.start + 1} of the line)")
            except (ValueError, RecursionError) as error:
                row = Row(number, problem=_malformed(error))
            yield row


def _loads(line: str) -> Any:
    return json.loads(line)


def _malformed(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON ({_reason(error)}, column {error.colno})"
    if isinstance(error, RecursionError):
        return "malformed JSON (nested too deeply)"
    return "malformed JSON (a number with too many digits)"


def _reason(error: json.JSONDecodeError) -> str:
    # What follows a colon may quote the text.
    return error.msg.partition(":")[0].removesuffix(" at").removesuffix(" starting")


def _first_character(file: CorpusFile) -> bytes:
    with _open(file) as stream:
        block = stream.read(_BLOCK).removeprefix(_BOM)
        while block and not block.strip():
            block = stream.read(_BLOCK)
        return block.strip()[:1]


def _json_list(file: CorpusFile) -> Iterator[Row]:
    """The elements of one JSON list, decoded as they arrive.

    A list cannot be picked up again after a syntax error, so that raises even where bad rows are
    skipped.
    """
    with _open(file) as stream:
        text = _Text(file, stream)
        text.take("[")
        line, nth, first = 0, 0, True
        while text.next_character() != "]":
            if not first:
                text.take(",")
                text.next_character()
            first = False
            line, nth = text.line, nth + 1 if text.line == line else 1
            yield Row(line, text.value(), nth=nth)
        text.take("]")
        if text.next_character():
            raise text.error("malformed JSON (something follows the list)")


class _Text:
    """A window of decoded text that slides over a JSON file and knows its line."""

    def __init__(self, file: CorpusFile, stream: IO[bytes]) -> None:
        self.line = 1
        self._file = file
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False

    def error(self, problem: str, line: int | None = None) -> CorpusError:
        return CorpusError(
            f"{self._file.shown}:{line or self.line}: {problem}. A .json corpus is one list of "
            "objects, or one object a line.",
            "Correct the file, or write it as JSONL (one object a line, suffix .jsonl).",
        )

    def next_character(self) -> str:
        """Skip white space; the character there, or an empty string at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        if self.next_character() != expected:
            raise self.error(f"malformed JSON (expected '{expected}')")
        self._at += 1

    def value(self) -> Any:
        """Decode the JSON value at the current place."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                line = self.line + self._text.count("\n", self._at, error.pos)
                if not self._more():  # incomplete so far, or wrong: only the end tells
                    raise self.error(f"malformed JSON ({_reason(error)})", line) from None
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(_malformed(error)) from None
            if end == len(self._text) and self._more():  # a number may go on in the next block
                continue
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _more(self) -> bool:
        """Append at least as much as is pending; False at the end of the file."""
        if self._ended:
            return False
        pending = self._text[self._at :]
        if len(pending) > MAX_ROW_BYTES:
            raise self.error(f"an object of more than {MAX_ROW_BYTES} characters")
        block = self._stream.read(max(_BLOCK, len(pending)))
        self._ended = not block
        try:
            self._text = pending + self._decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            line = self.line + pending.count("\n") + error.object[: error.start].count(b"\n")
            raise self.error(_ENCODING, line) from None
        self._at = 0
        return not self._ended


def _parquet(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(file) as stream:
        try:
            # Without pre-buffering, memory is bounded by the batch and not by the row group.
            table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BLOCK)
            names = tuple(table.schema_arrow.names)
            chosen = [name for name in names if name in columns]
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=chosen):
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch, i, number, names)
        except pa.ArrowException as error:
            raise unreadable(file.shown, error) from error


def _parquet_row(batch: Any, i: int, number: int, names: tuple[str, ...]) -> Row:
    value = {}
    for column, name in enumerate(batch.schema.names):
        try:
            value[name] = batch.column(column)[i].as_py()
        except UnicodeDecodeError:
            problem = f"{_ENCODING} in column '{plain(name)}'"
            return Row(number, problem=problem, columns=names)
    return Row(number, value, columns=names)


@contextmanager
def _seekable(file: CorpusFile) -> Iterator[IO[bytes]]:
    """`file` decompressed and seekable, as Parquet needs; by way of an unnamed temporary file."""
    with _open(file) as stream:
        if file.codec is None:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            while block := stream.read(_BLOCK):
                copy.write(block)
            copy.seek(0)
            yield copy
