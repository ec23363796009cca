"""One training record, and how it is made of the fields of a row.

A record is one object of a JSONL or JSON file, one row of a Parquet, Arrow, CSV or TSV file, or one
line of a text file (`.txt`, `.text`, `.md`; blank lines are skipped). How the fields of an object
are read, its layout, is told by the settings, or by the fields that it has
(`haiftrace.corpus.layouts`). An object that fits several is plain text, unless the loss is on the
response alone. A field that is null counts as absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haiftrace.corpus.corpus_file import CorpusFile, plain
from haiftrace.corpus.field_paths import columns_for, field_value
from haiftrace.corpus.formats import FORMATS
from haiftrace.corpus.formats.rows import Row
from haiftrace.corpus.layouts import BadRowError, Fields, Messages, RecordLayout, Span
from haiftrace.corpus.layouts.layout import string, type_name
from haiftrace.corpus.settings import DEFAULT_ID_FIELD, CorpusSettings
from haiftrace.errors import CorpusError

__all__ = ["BadRowError", "Record", "Span", "columns_of", "place", "record_of"]

_NAMES_SHOWN = 20


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
        thoughts: of a chat, what was thought before each message; empty where nothing is told.
        prompt_turns: of a chat whose loss is on its completion, how many messages are its prompt.
        token_ids: of a record that is given as tokens (its text is then empty), else None.
        token_labels: which of them carry loss; None for all.
        prompt_end: characters of `text` before the response, where it has one.
    """

    id: str
    text: str
    path: str
    line: int | None
    loss_spans: tuple[Span, ...] | None = None
    messages: Messages | None = None
    group: str | None = None
    thoughts: tuple[str | None, ...] = ()
    prompt_turns: int | None = None
    token_ids: tuple[int, ...] | None = None
    token_labels: tuple[bool, ...] | None = None
    prompt_end: int | None = None

    @property
    def place(self) -> str:
        """Where it stands, for an error message: `path:line`."""
        return place(self.path, self.line)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.text or self.token_ids)


def columns_of(settings: CorpusSettings, layouts: Sequence[RecordLayout]) -> set[str]:
    """The columns of a table that records are read from."""
    columns = set().union(*(layout.columns() for layout in layouts))
    id_field = DEFAULT_ID_FIELD if settings.id_field is None else settings.id_field
    for name in filter(None, (id_field, settings.group_field)):
        columns |= columns_for(name)
    return columns


def record_of(
    row: Row, file: CorpusFile, settings: CorpusSettings, layouts: Sequence[RecordLayout]
) -> tuple[Record, bool, RecordLayout | None]:
    """The record of a row, whether its id is its own, and the layout that it has.

    Args:
        layouts: the first that fits is the record's.

    Returns:
        No layout for a line of a text file.

    Raises:
        BadRowError: the row is no record.
        CorpusError: plain text with the loss on the response.
    """
    if row.problem:
        hint = ""
        if "UTF-8" in row.problem:
            hint = "Convert the file to UTF-8 (for example with iconv)."
        raise BadRowError(row.problem, hint)
    default_id = f"{file.shown}:{row.line}" + (f"#{row.nth}" if row.nth > 1 else "")
    if isinstance(row.value, str) and file.format == "text" and settings.lines_are_records:
        if settings.loss_on == "response":
            raise _no_response(file, row, None)
        return Record(default_id, row.value, file.shown, row.line), False, None
    if not isinstance(row.value, dict):
        raise BadRowError(f"{type_name(row.value)} where an object is expected")
    fields = {name: value for name, value in row.value.items() if value is not None}
    own_id = _own_id(fields, settings.id_field)
    layout = next((layout for layout in layouts if layout.fits(fields)), None)
    if layout is None:
        raise _missing(layouts, row, file)
    content = layout.read(fields)
    on_response = settings.loss_on == "response"
    if on_response and not content.has_response:
        raise _no_response(file, row, layout)
    record = Record(
        own_id or default_id,
        content.text,
        file.shown,
        row.line,
        (content.response,) if on_response and content.response else None,
        content.messages,
        _group(fields, settings.group_field),
        content.thoughts,
        content.prompt_turns if on_response else None,
        content.token_ids,
        content.token_labels if on_response else None,
        None if content.response is None else content.response[0],
    )
    return record, own_id is not None, layout


def place(path: str, line: int | None) -> str:
    """Where a record stands, for an error message: `path:line`."""
    return f"{plain(path, 300)}:{line}"


def _own_id(fields: Fields, id_field: str | None) -> str | None:
    value = field_value(fields, DEFAULT_ID_FIELD if id_field is None else id_field)
    usable = (isinstance(value, str) and value != "") or type(value) is int
    if usable:
        return string(str(value), id_field or DEFAULT_ID_FIELD)
    if id_field:
        what = "missing, null or empty" if value is None or value == "" else type_name(value)
        raise BadRowError(
            f"the id field '{plain(id_field)}' is {what}",
            "Name a field that holds a string or an integer in every record, or leave --id-field "
            "out.",
        )
    return None


def _group(fields: Fields, group_field: str | None) -> str | None:
    value = None if group_field is None else field_value(fields, group_field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) and type(value) is not int:
        raise BadRowError(
            f"the group field '{plain(group_field or '')}' is {type_name(value)}",
            "Name a field that holds a string or an integer with --group-field.",
        )
    return string(str(value), str(group_field))


def _missing(layouts: Sequence[RecordLayout], row: Row, file: CorpusFile) -> BadRowError:
    needs = ", nor ".join(layout.needs for layout in layouts)
    names = row.columns or tuple(row.value)
    if FORMATS[file.format].names_may_be_values:
        listed = f"the first line of the file names {len(names)} columns"
        hint = f"See its columns with: head -n 1 {file.shown}"
        hint += " (a file without a header needs one), and name the text's with --text-field."
        return BadRowError(f"the record has no field {needs} with a value; {listed}", hint)
    shown = [plain(name, 40) for name in names[:_NAMES_SHOWN]]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return BadRowError(
        f"the record has no field {needs} with a value; its fields are: "
        f"{', '.join(shown) + more or 'none'}",
        "Name the field that holds the text with --text-field, or several with --text-template.",
    )


def _no_response(file: CorpusFile, row: Row, layout: RecordLayout | None) -> CorpusError:
    what, needed = "plain text has", "records with prompt and response, or messages"
    if layout is not None and layout.name == "tokens":
        what = "token ids that does not say which of them are the response has"
        needed = "records with labels (-100 where there is no loss)"
    return CorpusError(
        f"{place(file.shown, row.line)}: a record of {what} no response to put the loss on.",
        f"Use --loss-on all, or {needed}.",
    )
