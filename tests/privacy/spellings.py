"""Ways in which a model, a web page, a log or a program may write one and the same value."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

_SEPARATOR = re.compile(r"(?<=\w)[-\s./@](?=\w)")


def _middle(value: str) -> int:
    """A place between two letters or digits, near the middle."""
    places = [i for i in range(1, len(value)) if value[i - 1].isalnum() and value[i].isalnum()]
    return min(places, key=lambda place: abs(place - len(value) // 2), default=0)


def _put(signs: str) -> Callable[[str], str]:
    def put(value: str) -> str:
        at = _middle(value)
        return value[:at] + signs + value[at:] if at else value

    return put


def _dashes(sign: str) -> Callable[[str], str]:
    return lambda value: re.sub(r"(?<=\d)[- ](?=\d)", sign, value)


def _digits(zero: str) -> Callable[[str], str]:
    table = {ord("0") + digit: ord(zero) + digit for digit in range(10)}
    return lambda value: value.translate(table)


def _separators(form: Callable[[str], str]) -> Callable[[str], str]:
    return lambda value: _SEPARATOR.sub(lambda match: form(match[0]), value)


def _first_space(value: str, signs: str) -> str:
    if not re.search(r"[- ]", value):
        return _put(signs)(value)
    return re.sub(r"[- ]", signs, value, count=1)


def _words(value: str) -> str:
    return value.replace(".", " dot ").replace("@", " at ") if "@" in value else value


def _bracketed(value: str) -> str:
    return value.replace(".", "[dot]").replace("@", " (at) ") if "@" in value else value


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda value: value,
    "line break for a separator": lambda value: _first_space(value, "\n"),
    "carriage return and line feed": lambda value: _first_space(value, "\r\n"),
    "zero-width space": _put("\u200b"),
    "zero-width joiner": _put("\u200d"),
    "word joiner": _put("\u2060"),
    "soft hyphen": _put("\u00ad"),
    "byte order mark": _put("\ufeff"),
    "bidi mark": _put("\u200e"),
    "bidi embedding": lambda value: f"\u202a{value}\u202c",
    "no-break space": lambda value: value.replace(" ", "\u00a0"),
    "thin space": lambda value: value.replace(" ", "\u2009"),
    "no-break hyphen": _dashes("\u2011"),
    "en dash": _dashes("\u2013"),
    "em dash": _dashes("\u2014"),
    "minus sign": _dashes("\u2212"),
    "full width": lambda value: "".join(
        chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in value
    ),
    "Arabic digits": _digits("\u0660"),
    "Devanagari digits": _digits("\u0966"),
    "HTML entities": _separators(lambda sign: f"&#{ord(sign)};"),
    "hexadecimal entities": _separators(lambda sign: f"&#x{ord(sign):x};"),
    "named space": lambda value: value.replace(" ", "&nbsp;"),
    "JSON escapes": _separators(lambda sign: f"\\u{ord(sign):04x}"),
    "percent escapes": lambda value: quote(value, safe=""),
    "escaped twice": _separators(lambda sign: f"&amp;#{ord(sign)};"),
    "backslash n": _put("\\n"),
    "double space": lambda value: re.sub(
        r"(?<=\d)-(?=\d)", " - ", re.sub(r"(?<=\d) (?=\d)", "  ", value)
    ),
    "Markdown escapes": lambda value: re.sub(r"([-.@_+])", r"\\\1", value),
    "tags": _put("<b></b>"),
    "underscores": lambda value: re.sub(r"(?<=\d)[- ](?=\d)", "_", value),
    "dots and spaces": lambda value: re.sub(r"(?<=\d)[- ](?=\d)", ". ", value),
    "spaces around the at-sign": lambda value: value.replace("@", " @ "),
    "words for signs": _words,
    "bracketed words": _bracketed,
}
