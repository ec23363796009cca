"""Fields of a record by name, also those inside others: `answer`, `data.answer`, `turns.0.text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def field_value(fields: Mapping[str, Any], path: str) -> Any:
    """The value of a field; None where there is none.

    A field whose own name has dots in it goes before one inside another.

    Args:
        fields: of a record, by name.
        path: a name, or names of fields inside each other with dots between; a number names an
            element of a list, from 0.
    """
    if path in fields:
        return fields[path]
    value: Any = fields
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def columns_for(path: str) -> set[str]:
    """The columns of a table that hold the field: its own name, and the outermost of the path."""
    return {path, path.partition(".")[0]}
