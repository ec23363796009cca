"""CLUE's Chinese corpora as they are downloaded, as a stream of documents.

- CLUECorpus2020 and CLUECorpusSmall: folders of `.txt` with one sentence a line and a blank line
  between documents;
- text files with one document a line;
- JSONL (also as `.json`) with the document in `text` (wiki2019zh) or `content` (news2016zh,
  webtext2019zh).

Files may be compressed (`.gz`, `.zst`). Of a directory with several folders, such as
CLUECorpusSmall's four, the folders give a document each in turns, so that the first documents are
of every kind.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice
from typing import Literal, get_args

from haiftrace.corpus import CorpusFile, Row, find_files, read_rows
from haiftrace.errors import CorpusError, UsageError

Layout = Literal["auto", "sentences", "documents"]

SAMPLE = "assets/clue_sample.txt"
FIELDS = ("text", "content")
# What is looked at to tell the layouts apart: CLUECorpusSmall shows its own within a few lines.
_FILES_LOOKED_AT = 16
_LINES_LOOKED_AT = 1000


@dataclass(frozen=True)
class Document:
    """One document: its text, and the file and line (1-based) on which it begins."""

    text: str
    path: str
    line: int


def read_documents(paths: Sequence[str], layout: Layout = "auto") -> Iterator[Document]:
    """The documents of a corpus, one at a time; the sample that ships for no path.

    Args:
        paths: files, globs and directories.
        layout: what a line of a text file is: one of a document's "sentences", or one of the
            "documents". "auto" takes sentences where a blank line stands between two others in
            one of the first text files of a path.

    Raises:
        CorpusError: no such file, a file that cannot be read or is broken (its line is named), or
            no document at all.
        UsageError: an unknown layout.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"No such layout: {layout!r}.", f"Choose {', '.join(get_args(Layout))}.")
    if not paths:
        with resources.as_file(resources.files("haiftrace.bench.clue") / SAMPLE) as sample:
            yield from _documents([str(sample)], "sentences")
        return
    yield from _documents(paths, layout)


def _documents(paths: Sequence[str], layout: Layout) -> Iterator[Document]:
    groups: list[Iterator[Document]] = []
    for path in paths:
        files = find_files([path])
        by_sentence = layout == "sentences" or (layout == "auto" and _has_blank_lines(files))
        folders: dict[str, list[CorpusFile]] = {}
        for file in files:
            folders.setdefault(file.name.rpartition("/")[0].partition("/")[0], []).append(file)
        groups += [_of_files(folder, by_sentence) for folder in folders.values()]
    is_empty = True
    for document in _in_turns(groups):
        is_empty = False
        yield document
    if is_empty:
        raise CorpusError("The corpus is empty: its files hold no document.", "Check --corpus.")


def _has_blank_lines(files: Sequence[CorpusFile]) -> bool:
    """Whether a blank line stands between two others in one of the first text files."""
    texts = [file for file in files if file.format == "text"]
    for file in texts[:_FILES_LOOKED_AT]:
        # Blank lines are no rows, so they show as a gap in the line numbers.
        lines = [row.line for row in islice(read_rows(file, ()), _LINES_LOOKED_AT)]
        if lines and lines[-1] - lines[0] >= len(lines):
            return True
    return False


def _of_files(files: Sequence[CorpusFile], by_sentence: bool) -> Iterator[Document]:
    return chain.from_iterable(
        _by_sentence(file) if file.format == "text" and by_sentence else _by_row(file)
        for file in files
    )


def _in_turns(streams: Sequence[Iterator[Document]]) -> Iterator[Document]:
    active = list(streams)
    while active:
        unfinished = []
        for stream in active:
            document = next(stream, None)
            if document is not None:
                unfinished.append(stream)
                yield document
        active = unfinished


def _by_sentence(file: CorpusFile) -> Iterator[Document]:
    sentences: list[str] = []
    first = last = 0
    for row in read_rows(file, ()):
        text = _text(file, row)
        if sentences and row.line > last + 1:
            yield Document(_joined(sentences), file.shown, first)
            sentences = []
        if not sentences:
            first = row.line
        sentences.append(text)
        last = row.line
    if sentences:
        yield Document(_joined(sentences), file.shown, first)


def _by_row(file: CorpusFile) -> Iterator[Document]:
    for row in read_rows(file, FIELDS):
        text = _text(file, row)
        if text:
            yield Document(text, file.shown, row.line)


def _text(file: CorpusFile, row: Row) -> str:
    """The text of a row, without white space around it."""
    if row.problem:
        raise _broken(file, row, row.problem)
    if isinstance(row.value, str) and file.format == "text":
        return row.value.strip()
    if not isinstance(row.value, dict):
        raise _broken(file, row, "no object with a field 'text' or 'content'")
    values = [row.value[name] for name in FIELDS if row.value.get(name) is not None]
    value = next((value for value in values if value != ""), values[0] if values else None)
    if not isinstance(value, str):
        raise _broken(file, row, "no string in a field 'text' or 'content'")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _broken(file, row, "half a surrogate pair, which is not valid Unicode") from None
    return value.strip()


def _joined(sentences: Sequence[str]) -> str:
    """Sentences as running text: Chinese takes no space between them, other scripts do."""
    text = sentences[0]
    for sentence in sentences[1:]:
        wide = any(unicodedata.east_asian_width(c) in "WF" for c in (text[-1], sentence[0]))
        text += sentence if wide else " " + sentence
    return text


def _broken(file: CorpusFile, row: Row, problem: str) -> CorpusError:
    hint = "Correct the line or take it out."
    if "UTF-8" in problem:
        hint = "Convert the file to UTF-8, for example with `iconv -f GB18030 -t UTF-8`."
    return CorpusError(f"{file.shown}:{row.line}: {problem}.", hint)
