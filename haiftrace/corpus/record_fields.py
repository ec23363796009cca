"""One training record, and how it is read from the fields of a row.

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

from dataclasses import dataclass
from typing import Any

from haiftrace.corpus.corpus_file import CorpusFile, plain
from haiftrace.corpus.formats.rows import Row
from haiftrace.corpus.settings import DEFAULT_ID_FIELD, DEFAULT_TEXT_FIELD, CorpusSettings
from haiftrace.errors import CorpusError

_RESPONSE_FIELDS = ("response", "completion")
_NAMES_SHOWN = 20

Span = tuple[int, int]
"""Characters [start, end) of a text."""


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
    loss_spans: tuple[Span, ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    group: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for an error message: `path:line`."""
        return place(self.path, self.line)


class BadRowError(Exception):
    """A row that is no record: an error, or counted, as the settings say."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def columns_of(settings: CorpusSettings) -> set[str]:
    """The fields that records are read from."""
    columns = {settings.text_field, "prompt", *_RESPONSE_FIELDS, "messages"}
    columns.add(DEFAULT_ID_FIELD if settings.id_field is None else settings.id_field)
    if settings.group_field is not None:
        columns.add(settings.group_field)
    return columns


def record_of(row: Row, file: CorpusFile, settings: CorpusSettings) -> tuple[Record, bool]:
    """The record of a row, and whether its id is its own.

    Raises:
        BadRowError: the row is no record.
        CorpusError: plain text with the loss on the response.
    """
    if row.problem:
        hint = ""
        if "UTF-8" in row.problem:
            hint = "Convert the file to UTF-8 (for example with iconv), or use --skip-bad-lines."
        raise BadRowError(row.problem, hint)
    default_id = f"{file.shown}:{row.line}" + (f"#{row.nth}" if row.nth > 1 else "")
    if isinstance(row.value, str) and file.format == "text":
        if settings.loss_on == "response":
            raise _no_response(file, row)
        return Record(default_id, row.value, file.shown, row.line), False
    if not isinstance(row.value, dict):
        raise BadRowError(f"{_type_name(row.value)} where an object is expected")
    fields = {name: value for name, value in row.value.items() if value is not None}
    own_id = _own_id(fields, settings.id_field)
    text, response, messages = _content(fields, row, file, settings)
    spans = (response,) if response and settings.loss_on == "response" else None
    group = _group(fields, settings.group_field)
    record = Record(own_id or default_id, text, file.shown, row.line, spans, messages, group)
    return record, own_id is not None


def place(path: str, line: int | None) -> str:
    """Where a record stands, for an error message: `path:line`."""
    return f"{plain(path, 300)}:{line}"


def _content(
    fields: dict[str, Any], row: Row, file: CorpusFile, settings: CorpusSettings
) -> tuple[str, Span | None, tuple[tuple[str, str], ...] | None]:
    """Text, the character span of the response, and the messages of a row's object."""
    response = next((name for name in _RESPONSE_FIELDS if name in fields), None)
    chat = "messages" in fields
    pair = "prompt" in fields and response is not None
    if settings.text_field != DEFAULT_TEXT_FIELD:
        chat = pair = False
    if settings.text_field in fields and not (settings.loss_on == "response" and (chat or pair)):
        text = _string(fields[settings.text_field], settings.text_field)
        if settings.loss_on == "response":
            raise _no_response(file, row)
        return text, None, None
    if chat:
        messages = _messages(fields["messages"])
        contents = [content for _, content in messages]
        return "\n".join(contents) if any(contents) else "", None, messages
    if pair and response is not None:
        prompt = _string(fields["prompt"], "prompt")
        text = prompt + _string(fields[response], response)
        return text, (len(prompt), len(text)), None
    raise _missing(settings.text_field, row)


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise BadRowError(f"the field 'messages' is {_type_name(value)}, not a list")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise BadRowError(f"message {number} is {_type_name(message)}, not an object")
        if message.get("tool_calls"):
            raise BadRowError(
                f"message {number} has tool calls, which would be lost",
                "Render such chats to text with the template that training used, and index that.",
            )
        role, content = (
            _string(message.get(name), name, f" of message {number}")
            for name in ("role", "content")
        )
        messages.append((role, content))
    return tuple(messages)


def _own_id(fields: dict[str, Any], id_field: str | None) -> str | None:
    value = fields.get(DEFAULT_ID_FIELD if id_field is None else id_field)
    usable = (isinstance(value, str) and value != "") or type(value) is int
    if usable:
        return _string(str(value), id_field or DEFAULT_ID_FIELD)
    if id_field:
        what = "missing, null or empty" if value is None or value == "" else _type_name(value)
        raise BadRowError(
            f"the id field '{plain(id_field)}' is {what}",
            "Name a field that holds a string or an integer in every record, or leave --id-field "
            "out.",
        )
    return None


def _group(fields: dict[str, Any], group_field: str | None) -> str | None:
    value = None if group_field is None else fields.get(group_field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) and type(value) is not int:
        raise BadRowError(
            f"the group field '{plain(group_field or '')}' is {_type_name(value)}",
            "Name a field that holds a string or an integer with --group-field.",
        )
    return _string(str(value), str(group_field))


def _string(value: Any, name: str, where: str = "") -> str:
    what = f"the field '{plain(name)}'{where}"
    if not isinstance(value, str):
        raise BadRowError(f"{what} is {_type_name(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        problem = f"{what} holds half a surrogate pair, which is not valid Unicode"
        raise BadRowError(problem) from None
    return value


def _missing(text_field: str, row: Row) -> BadRowError:
    names = [plain(name, 40) for name in row.columns or row.value]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    name_list = ", ".join(names[:_NAMES_SHOWN]) + more or "none"
    missing = f"'{plain(text_field)}'"
    if text_field == DEFAULT_TEXT_FIELD:
        missing += ", nor 'prompt' and 'response', nor 'messages'"
    return BadRowError(
        f"the record has no field {missing} with a value; its fields are: {name_list}",
        "Name the field that holds the text with --text-field.",
    )


def _no_response(file: CorpusFile, row: Row) -> CorpusError:
    return CorpusError(
        f"{place(file.shown, row.line)}: a record of plain text has no response to put the loss "
        "on.",
        "Use --loss-on all, or records with prompt and response, or messages.",
    )


def _type_name(value: Any) -> str:
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
