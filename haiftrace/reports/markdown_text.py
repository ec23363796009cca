"""Text from outside in Markdown: values as code spans, sentences as prose, both without effect.

What is shown stays readable where nobody renders it: a value stands in backticks as it is, and of
prose only what would act is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from rich.cells import cell_len

from haiftrace.reports.sanitize import inert, short

MOST_CHARACTERS = 1_000  # of a prompt, a response or a record
_WIDEST = 48  # cells that a table's column is padded to

# In prose: what opens, closes or links something wherever it stands.
_ACTS = re.compile(r"[\\`*\[\]~|#<>&$@_]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_REFERRED = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "$": "&#36;", ":": "&#58;", ".": "&#46;"}
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_AT = "<span>&#64;</span>"  # a renderer that links names and addresses sees it in two pieces
_BEGINS = re.compile(r"^(\d*)([-+=.)])")  # a list, or the rule of a heading


def prose(text: str) -> str:
    """A sentence in which outside names may stand: inert, no character of it markup or a link."""
    return _BEGINS.sub(r"\1\\\2", _ACTS.sub(_escaped, inert(text).strip()))


def _escaped(match: re.Match[str]) -> str:
    sign, text, at = match[0], match.string, match.start()
    if sign == "@":
        return _AT
    if sign == "_" and text[at - 1 : at].isalnum() and text[at + 1 : at + 2].isalnum():
        return sign
    return _REFERRED.get(sign, f"\\{sign}")


def code(text: str, most: int = MOST_CHARACTERS) -> str:
    """Text from outside, cut to `most` characters, in a code span that nothing in it can close."""
    shown = short(text, most)
    if not shown.strip():
        return "(empty)" if not shown else "(white space)"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # One space at each end is taken away again, where both ends have one.
    edged = shown[0] in "` " or shown[-1] in "` "
    return f"{fence} {shown} {fence}" if edged else f"{fence}{shown}{fence}"


def cell(text: str, most: int) -> str:
    """The same for a cell of a table, where a bar would end it."""
    shown = short(text, most)
    if "|" not in shown and "\\" not in shown:
        return code(shown, most)
    return f"<code>{_PUNCTUATION.sub(_reference, shown)}</code>"


def _reference(match: re.Match[str]) -> str:
    return _AT if match[0] == "@" else f"&#{ord(match[0])};"


def summary(text: str, most: int) -> str:
    """Text of an HTML line, in which Markdown is not read."""
    shown = html.escape(short(text, most), quote=False).replace("@", _AT)
    return re.sub(r":(?=//)|(?<=www)\.", lambda m: _REFERRED[m[0]], shown, flags=re.IGNORECASE)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand under each other also where nobody renders it.

    Args:
        head, rows: cells that are Markdown already.
    """
    sizes = [
        max(min(max(cell_len(row[n]) for row in (head, *rows)), _WIDEST), 3)
        for n in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{text}{' ' * (n - cell_len(text))}" for text, n in zip(cells, sizes, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (size + 2) for size in sizes)
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])
