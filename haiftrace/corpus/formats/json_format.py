"""JSON: one object a line, or one list of objects, decoded as they arrive.

Memory stays at one line or object, of at most `MAX_ROW_BYTES`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from typing import IO, Any

from haiftrace.corpus.corpus_file import CorpusFile
from haiftrace.corpus.formats.rows import (
    BAD_ENCODING,
    BLOCK,
    BOM,
    MAX_ROW_BYTES,
    Row,
    malformed,
    open_corpus_file,
    read_lines,
    reason,
)
from haiftrace.errors import CorpusError

_SPACE = " \t\r\n"


def json_line_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """An object a line."""
    yield from read_lines(file, _loads)


def json_rows(file: CorpusFile, columns: Collection[str]) -> Iterator[Row]:
    """The elements of one list, or an object a line."""
    if _first_character(file) == b"[":
        yield from _json_list(file)
    else:
        yield from read_lines(file, _loads)


def _loads(line: str) -> Any:
    return json.loads(line)


def _first_character(file: CorpusFile) -> bytes:
    with open_corpus_file(file) as stream:
        block = stream.read(BLOCK).removeprefix(BOM)
        while block and not block.strip():
            block = stream.read(BLOCK)
        return block.strip()[:1]


def _json_list(file: CorpusFile) -> Iterator[Row]:
    """The elements of one JSON list, decoded as they arrive.

    A list cannot be picked up again after a syntax error, so that raises even where bad rows are
    skipped.
    """
    with open_corpus_file(file) as stream:
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
                if not self._more():  # incomplete so far, or wrong: the end decides
                    raise self.error(f"malformed JSON ({reason(error)})", line) from None
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(malformed(error)) from None
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
        block = self._stream.read(max(BLOCK, len(pending)))
        self._ended = not block
        try:
            self._text = pending + self._decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            line = self.line + pending.count("\n") + error.object[: error.start].count(b"\n")
            raise self.error(BAD_ENCODING, line) from None
        self._at = 0
        return not self._ended
