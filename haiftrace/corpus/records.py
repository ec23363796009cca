"""The training corpus as a stream of records: JSONL, JSON, Parquet and text files.

A record is one object of a JSONL or JSON file, one row of a Parquet file, or one line of a text
file (`.txt`, `.text`, `.md`; blank lines are skipped). An object is read as

- `{"text": ...}`, or the field that `text_field` names;
- `{"prompt": ..., "response": ...}` (or `completion`): the two joined exactly as they stand;
- `{"messages": [{"role": ..., "content": ...}, ...]}`: a chat, rendered with the tokenizer's chat
  template in `haiftrace.corpus.windows`.

An object that fits several is plain text, unless the loss is on the response alone. A field that is
null counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from haiftrace.corpus.files import CorpusFile, content_hash, find_files, plain
from haiftrace.corpus.formats import Row, read_rows
from haiftrace.errors import CorpusError

LossOn = Literal["all", "response"]

DEFAULT_TEXT_FIELD = "text"
DEFAULT_ID_FIELD = "id"

# Part of the fingerprint: raise it when the same files begin to be read differently.
_READER = "haiftrace-corpus-1"
_RESPONSE_FIELDS = ("response", "completion")
_PLACES_KEPT = 5
_NAMES_SHOWN = 20


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
        group_field: the field whose value records on the same subject share, a string or an
            integer; a record without it is on its own.

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


@dataclass(frozen=True)
class Record:
    """One training record.

    Attributes:
        id: its own id, else `path:line` (`path:line#2` for the second object on one line).
        text: its text, exactly as it stands; for a chat the contents, a line feed between them
            (the text that is trained on exists only once a tokenizer has rendered it).
        path: its file, relative to the working directory when below it, else absolute.
        line: 1-based line on which it begins; in Parquet the 1-based row number.
        loss_spans: [start, end) character spans of `text` that carry loss, in order and disjoint;
            None for all of it.
        messages: (role, content) of a chat, else None.
        group: the value of the group field, else None.
    """

    id: str
    text: str
    path: str
    line: int | None
    loss_spans: tuple[tuple[int, int], ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    group: str | None = None


@dataclass
class ReadReport:
    """What a pass through the corpus met; filled while `read_records` runs.

    Attributes:
        records: records given out.
        empty: records without any text, left out.
        bad: rows that were left out because they could not be read (`skip_bad_lines`).
        bad_places: where the first few of these are and what is wrong: "path:line: reason".
    """

    records: int = 0
    empty: int = 0
    bad: int = 0
    bad_places: list[str] = field(default_factory=list)


class _BadRowError(Exception):
    """A row that is no record: an error, or counted, as the settings say."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


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


def read_records(settings: CorpusSettings, report: ReadReport | None = None) -> Iterator[Record]:
    """Every record of the corpus, in order, one at a time.

    Memory does not grow with the corpus, but for one hash for each id that a record brings along
    (ids must be unique).

    Args:
        settings: what to read.
        report: counts of what was met, filled as the iterator advances.

    Raises:
        CorpusError: files that cannot be found or read, a row that is no record (unless
            `skip_bad_lines`), an id that comes twice, plain text with the loss on the response, or
            a corpus without a record. Names file and line, never the text.
    """
    report = ReadReport() if report is None else report
    given = 0
    seen: set[int] = set()
    located: set[str] = set()  # files in which some id is the record's place
    for record, own_id in _records(settings, report):
        key = hash(record.id)
        # Hashes may collide, and a record's own id may read like another record's place. Both are
        # settled by a second look at what came before.
        if key in seen or (own_id and record.id.rpartition(":")[0] in located):
            _refuse_duplicate(settings, record, given)
        if own_id:
            seen.add(key)
        else:
            located.add(record.path)
        given += 1
        report.records += 1
        yield record
    if not given:
        raise _nothing_read(report)


def _refuse_duplicate(settings: CorpusSettings, record: Record, before: int) -> None:
    for number, (earlier, _) in enumerate(_records(settings, ReadReport())):
        if number == before:
            return
        if earlier.id == record.id:
            raise CorpusError(
                f"{_place(earlier.path, earlier.line)} and {_place(record.path, record.line)} "
                "have the same id, so a finding could not say which of them it means.",
                "Make the ids unique, name another field with --id-field, or pass "
                '--id-field "" to name records by file and line.',
            )


def _nothing_read(report: ReadReport) -> CorpusError:
    if report.bad:
        return CorpusError(
            f"The corpus has no usable record: {report.bad} bad lines were skipped and "
            f"{report.empty} records are empty. The first bad line is {report.bad_places[0]}.",
            "Correct the corpus, or name the right field with --text-field.",
        )
    if report.empty:
        return CorpusError(
            f"The corpus has no usable record: all {report.empty} are empty.",
            "Name the field that holds the text with --text-field.",
        )
    return CorpusError("The corpus is empty: its files hold no record.", "Check --corpus.")


def _records(settings: CorpusSettings, report: ReadReport) -> Iterator[tuple[Record, bool]]:
    """Records and whether their ids are their own; empty and bad ones are counted."""
    columns = {settings.text_field, "prompt", *_RESPONSE_FIELDS, "messages"}
    columns.add(DEFAULT_ID_FIELD if settings.id_field is None else settings.id_field)
    if settings.group_field is not None:
        columns.add(settings.group_field)
    for file in find_files(settings.paths):
        for row in read_rows(file, columns):
            try:
                record, own_id = _record(row, file, settings)
            except _BadRowError as bad:
                place = f"{_place(file.shown, row.line)}: {bad.problem}"
                if not settings.skip_bad_lines:
                    skip = "Correct it, or leave such lines out with --skip-bad-lines."
                    raise CorpusError(f"{place}.", bad.hint or skip) from None
                report.bad += 1
                if len(report.bad_places) < _PLACES_KEPT:
                    report.bad_places.append(place)
                continue
            if not record.text:
                report.empty += 1
            else:
                yield record, own_id


def _place(path: str, line: int | None) -> str:
    return f"{plain(path, 300)}:{line}"


def _record(row: Row, file: CorpusFile, settings: CorpusSettings) -> tuple[Record, bool]:
    if row.problem:
        hint = ""
        if "UTF-8" in row.problem:
            hint = "Convert the file to UTF-8 (for example with iconv), or use --skip-bad-lines."
        raise _BadRowError(row.problem, hint)
    place = f"{file.shown}:{row.line}" + (f"#{row.nth}" if row.nth > 1 else "")
    if isinstance(row.value, str) and file.format == "text":
        if settings.loss_on == "response":
            raise _no_response(file, row)
        return Record(place, row.value, file.shown, row.line), False
    if not isinstance(row.value, dict):
        raise _BadRowError(f"{_type(row.value)} where an object is expected")
    present = {name: value for name, value in row.value.items() if value is not None}
    own_id = _own_id(present, settings.id_field)
    text, response, messages = _content(present, row, file, settings)
    spans = (response,) if response and settings.loss_on == "response" else None
    group = _group(present, settings.group_field)
    record = Record(own_id or place, text, file.shown, row.line, spans, messages, group)
    return record, own_id is not None


def _content(
    present: dict[str, Any], row: Row, file: CorpusFile, settings: CorpusSettings
) -> tuple[str, tuple[int, int] | None, tuple[tuple[str, str], ...] | None]:
    """Text, the character span of the response, and the messages of a row's object."""
    response = next((name for name in _RESPONSE_FIELDS if name in present), None)
    chat = "messages" in present
    pair = "prompt" in present and response is not None
    if settings.text_field != DEFAULT_TEXT_FIELD:
        chat = pair = False
    if settings.text_field in present and not (settings.loss_on == "response" and (chat or pair)):
        text = _string(present[settings.text_field], settings.text_field)
        if settings.loss_on == "response":
            raise _no_response(file, row)
        return text, None, None
    if chat:
        messages = _messages(present["messages"])
        contents = [content for _, content in messages]
        return "\n".join(contents) if any(contents) else "", None, messages
    if pair and response is not None:
        prompt = _string(present["prompt"], "prompt")
        text = prompt + _string(present[response], response)
        return text, (len(prompt), len(text)), None
    raise _missing(settings.text_field, row)


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise _BadRowError(f"the field 'messages' is {_type(value)}, not a list")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise _BadRowError(f"message {number} is {_type(message)}, not an object")
        if message.get("tool_calls"):
            raise _BadRowError(
                f"message {number} has tool calls, which would be lost",
                "Render such chats to text with the template that training used, and index that.",
            )
        role, content = (
            _string(message.get(name), name, f" of message {number}")
            for name in ("role", "content")
        )
        messages.append((role, content))
    return tuple(messages)


def _own_id(present: dict[str, Any], id_field: str | None) -> str | None:
    value = present.get(DEFAULT_ID_FIELD if id_field is None else id_field)
    usable = (isinstance(value, str) and value != "") or type(value) is int
    if usable:
        return _string(str(value), id_field or DEFAULT_ID_FIELD)
    if id_field:
        what = "missing, null or empty" if value is None or value == "" else _type(value)
        raise _BadRowError(
            f"the id field '{plain(id_field)}' is {what}",
            "Name a field that holds a string or an integer in every record, or leave --id-field "
            "out.",
        )
    return None


def _group(present: dict[str, Any], group_field: str | None) -> str | None:
    value = None if group_field is None else present.get(group_field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) and type(value) is not int:
        raise _BadRowError(
            f"the group field '{plain(group_field or '')}' is {_type(value)}",
            "Name a field that holds a string or an integer with --group-field.",
        )
    return _string(str(value), str(group_field))


def _string(value: Any, name: str, where: str = "") -> str:
    what = f"the field '{plain(name)}'{where}"
    if not isinstance(value, str):
        raise _BadRowError(f"{what} is {_type(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = f"{what} holds half a surrogate pair, which is not valid Unicode"
        raise _BadRowError(problem) from None
    return value


def _missing(text_field: str, row: Row) -> _BadRowError:
    names = [plain(name, 40) for name in row.columns or row.value]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    there = ", ".join(names[:_NAMES_SHOWN]) + more or "none"
    wanted = f"'{plain(text_field)}'"
    if text_field == DEFAULT_TEXT_FIELD:
        wanted += ", nor 'prompt' and 'response', nor 'messages'"
    return _BadRowError(
        f"the record has no field {wanted} with a value; its fields are: {there}",
        "Name the field that holds the text with --text-field.",
    )


def _no_response(file: CorpusFile, row: Row) -> CorpusError:
    return CorpusError(
        f"{_place(file.shown, row.line)}: a record of plain text has no response to put the loss "
        "on.",
        "Use --loss-on all, or records with prompt and response, or messages.",
    )


def _type(value: Any) -> str:
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
