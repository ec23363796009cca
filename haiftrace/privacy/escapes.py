"""Escapes that programs write for characters, and the characters that they stand for."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

# Tags that change how text looks and not where it stands; a block separates what is around it.
_INLINE = frozenset(
    (
        *("a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i"),
        *("ins", "kbd", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub"),
        *("sup", "tt", "u", "var", "wbr"),
    )
)
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd"),
        *("div", "dl", "dt", "fieldset", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
        *("head", "header", "hr", "html", "img", "input", "label", "li", "main", "nav", "ol"),
        *("option", "p", "pre", "section", "svg", "table", "tbody", "td", "tfoot", "th", "thead"),
        *("title", "tr", "ul"),
    )
)
_CONTROLS = {"n": "\n", "r": "\n", "t": " "}

_PATTERN = re.compile(
    r"(?P<entity>&(?:\#(?:\d{1,7}|[xX][0-9a-fA-F]{1,6});?|[A-Za-z][A-Za-z0-9]{1,31};))"
    r"|(?P<unicode>(?:\\u[0-9a-fA-F]{4})+|\\u\{[0-9a-fA-F]{1,6}\}|\\U[0-9a-fA-F]{8}"
    r"|\\x[0-9a-fA-F]{2}|\\N\{U\+[0-9a-fA-F]{4,6}\})"
    r"|(?P<percent>(?:%[0-9a-fA-F]{2})+)"
    r"|(?P<control>\\r\\n|\\[nrt](?![a-z]+[\\/]))"
    r"|(?P<continued>\\\r?\n)"
    r"|(?P<sign>\\[!-/:-@\[-`{-~])"
    r"|(?P<comment><!--[^>]{0,200}-->)"
    # An attribute may hold a value, which must not vanish with its tag.
    r"|(?P<tag></?(?P<name>[A-Za-z][A-Za-z0-9]{0,15})(?:\s(?:[^<>@\d]|\d{1,3}(?!\d)){0,200})?/?>)"
    r"|(?P<strong>\*\*|(?<![\w])__(?=[^\W_])|(?<=[^\W_])__(?!\w)|``?)"
)
_UNICODE = re.compile(r"[0-9a-fA-F]{2,8}")


def pieces(text: str) -> list[tuple[int, int, str]]:
    """The escapes of a text: characters [start, end) and what they stand for, in order."""
    return [
        (match.start(), match.end(), meaning)
        for match in _PATTERN.finditer(text)
        if (meaning := _meaning(match)) is not None
    ]


def _meaning(match: re.Match[str]) -> str | None:
    """What an escape stands for; None for what only looks like one."""
    return _MEANINGS[match.lastgroup if match.lastgroup != "name" else "tag"](match)


def _entity(match: re.Match[str]) -> str | None:
    meaning = html.unescape(match[0] if match[0].endswith(";") else f"{match[0]};")
    return None if meaning.startswith("&") and len(meaning) > 1 else meaning


def _unicode(match: re.Match[str]) -> str | None:
    codes = [int(code, 16) for code in _UNICODE.findall(match[0])]
    try:
        units = b"".join(
            chr(code).encode("utf-16-le", "surrogatepass") if code < 0x110000 else b""
            for code in codes
        )
        return units.decode("utf-16-le")
    except UnicodeDecodeError:
        return None


def _percent(match: re.Match[str]) -> str | None:
    try:
        return bytes.fromhex(match[0].replace("%", "")).decode()
    except UnicodeDecodeError:
        return None


def _tag(match: re.Match[str]) -> str | None:
    name = match["name"].lower()
    if name in _INLINE:
        return ""
    return "\n" if name in _BLOCKS else None


_MEANINGS: dict[str | None, Callable[[re.Match[str]], str | None]] = {
    "entity": _entity,
    "unicode": _unicode,
    "percent": _percent,
    "control": lambda match: _CONTROLS[match[0][1]],
    "continued": lambda match: "",
    "sign": lambda match: match[0][1],
    "comment": lambda match: "",
    "tag": _tag,
    "strong": lambda match: "",
}
