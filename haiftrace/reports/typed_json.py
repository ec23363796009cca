"""From JSON to the dataclasses of a report: every value of the type that its field declares.

A file may be cut off, edited or hostile, so nothing is taken as it comes: numbers are finite and of
a size that arithmetic bears, counts are not negative, words of a closed list are of that list.
Messages name the place of what is wrong, `findings[0].records[2].score`, and quote nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from haiftrace.findings import NullDistribution

_LARGEST = 2**63
_KEYS: dict[tuple[type, str], str] = {(NullDistribution, "samples"): "draws"}
"""Fields whose key has another name."""
_NAMES = {str: "text", int: "count", float: "finite number", bool: "true or false"}

T = TypeVar("T")


class MisshapenError(ValueError):
    """A value is not what its field declares.

    Args:
        place: where it is.
        wanted: what it is not.
    """

    def __init__(self, place: str, wanted: str) -> None:
        super().__init__(place, wanted)
        self.place = place
        self.wanted = wanted


def read_as(kind: type[T], value: Any, place: str = "", *, lenient: bool = False) -> T:
    """A value of JSON as a dataclass; keys that it does not know are left aside.

    Args:
        kind: the dataclass.
        place: of the value in its document.
        lenient: fields with a default may be missing, as in what an earlier version wrote.

    Raises:
        MisshapenError: some value is of another type than its field, or missing.
    """
    return cast(T, _dataclass(kind, value, place, lenient))


def _value(kind: Any, value: Any, place: str, lenient: bool) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, value, place, lenient)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise MisshapenError(place, f"one of {', '.join(map(str, arguments))}")
    if origin in (Union, UnionType):
        return _either(arguments, value, place, lenient)
    if origin is tuple:
        if not isinstance(value, list):
            raise MisshapenError(place, "list")
        return tuple(
            _value(arguments[0], item, f"{place}[{number}]", lenient)
            for number, item in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise MisshapenError(place, "object")
        # A key of the user's is not shown: it may be anything.
        return {key: _setting(item, f"{place}[{n}]") for n, (key, item) in enumerate(value.items())}
    return _scalar(kind, value, place)


def _dataclass(kind: type, value: Any, place: str, lenient: bool) -> Any:
    if not isinstance(value, dict):
        raise MisshapenError(place, "object")
    types = _types(kind)
    read = {}
    for field in fields(kind):
        key = _KEYS.get((kind, field.name), field.name)
        at = f"{place}.{key}" if place else key
        if key in value:
            read[field.name] = _value(types[field.name], value[key], at, lenient)
        elif not lenient or not _has_default(field):
            raise MisshapenError(at, "there")
    return kind(**read)


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@cache
def _types(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _either(kinds: tuple[Any, ...], value: Any, place: str, lenient: bool) -> Any:
    if value is None and NoneType in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not NoneType)
    return _value(kind, value, place, lenient)


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is float:
        number = _finite(value)
        if number is not None:
            return number
    elif kind is int:
        if type(value) is int and 0 <= value < _LARGEST:
            return value
    elif type(value) is kind:
        return value
    raise MisshapenError(place, _NAMES[kind])


def _setting(value: Any, place: str) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | bool):
        return value
    if type(value) is int and abs(value) < _LARGEST:
        return value
    number = _finite(value)
    if number is None:
        raise MisshapenError(place, "text, finite number, true, false or null")
    return number


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float) or abs(value) >= 1e200 or math.isnan(value):
        return None
    return float(value)
