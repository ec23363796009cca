"""Lines on a console: how wide they are, how they look, which characters they may hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from haiftrace.findings import Source
from haiftrace.reports.sanitize import encodable, inert
from haiftrace.reports.terminal.flow import Unit, excerpt, gapped, plain_units, wrap

_WIDEST = 110  # cells; longer lines are hard to read
_NARROWEST = 24
_LABEL = 10  # cells of the column of labels
INDENT = 4  # cells before a record's lines
_MOST_LINES = 7  # a longer text is cut to what stands around what is marked in it
_CONTEXT = 60  # cells before and after each


class Page:
    """Lines on a console: their width, whether they may be styled, what characters they may hold.

    Attributes:
        width: cells of a line.
        styled: whether colours and attributes reach the reader.
        full: whether long texts are shown uncut.
        verbose: whether the figures behind the words are shown.
        linked: whether places in files are links (OSC 8), for a terminal that shows styles.
    """

    def __init__(self, console: Console, full: bool, verbose: bool = False) -> None:
        self._console = console
        self.styled = console.color_system is not None and not console.no_color
        self.linked = self.styled and console.is_terminal and not console.legacy_windows
        self.width = max(min(console.width, _WIDEST), _NARROWEST)
        self.full = full
        self.verbose = verbose
        self._is_faint = False

    def show(self, text: str) -> str:
        """Data of any origin as inert text that the console can print."""
        return encodable(inert(text), self._console.encoding)

    def line(self, text: Text) -> None:
        """Print one line; where signs have to be spelled out, styles are given up for it."""
        plain = encodable(text.plain, self._console.encoding)
        shown = text if self.styled and plain == text.plain else Text(plain)
        shown.rstrip()
        if self._is_faint and self.styled:
            shown = Text(shown.plain, "dim")  # no shade competes with what is above
        self._console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def blank(self) -> None:
        self.line(Text())

    def link(self, source: Source) -> str:
        """The style that links a place to its file and line; empty where there is no such file.

        So a masked path is no link, nor is a place of another machine.
        """
        if not self.linked or not os.path.isfile(source.path):
            return ""
        uri = Path(os.path.abspath(source.path)).as_uri()
        # The line as a fragment: terminals that know no lines leave it aside.
        return f"link {uri}" if source.line is None else f"link {uri}#{source.line}"

    def rule(self, title: str) -> None:
        self.line(Text(f"─── {title} ".ljust(self.width, "─"), "dim"))

    @contextmanager
    def faint(self) -> Iterator[None]:
        """What is printed meanwhile is dim, whatever its own style."""
        self._is_faint = True
        try:
            yield
        finally:
            self._is_faint = False

    def entry(self, label: str, units: Sequence[Unit], *, label_style: str = "bold") -> None:
        """A label and a text beside it, wrapped under itself."""
        head = Text.assemble((label, label_style), " " * (_LABEL - len(label)))
        for line in wrap(units, self.width - _LABEL):
            self.line(Text.assemble(head, line))
            head = Text(" " * _LABEL)

    def block(self, units: Sequence[Unit], *, lead: str = "") -> None:
        """A text indented like a record's lines, with `lead` before each of its lines."""
        indent = " " * INDENT
        for line in wrap(units, self.width - INDENT - cell_len(lead)):
            self.line(Text.assemble(indent, (lead, "dim"), line))

    def words(self, text: str, style: str = "") -> list[Unit]:
        return list(plain_units(text, self.show, style=style))

    def cut(self, units: Sequence[Unit]) -> tuple[list[Unit], bool]:
        if self.full:
            return list(units), False
        return excerpt(units, limit=_MOST_LINES * (self.width - _LABEL), context=_CONTEXT)


def ending(shown: str, cells: int) -> str:
    """The end of inert text, of at most so many cells: of a long place the file and the line."""
    if cell_len(shown) <= cells:
        return shown
    tail = shown[-cells:]
    while cell_len(tail) >= cells:
        tail = tail[1:]
    return f"…{tail}"


def print_warning(page: Page, note: str) -> None:
    """A note that must not be overlooked."""
    page.entry("Warning", page.words(note, "bold"), label_style="bold #000000 on #ffb340")


def facts(page: Page, *texts: str, first_style: str = "") -> list[Unit]:
    """Texts in a line, with dots between, the first of them in a style."""
    units: list[Unit] = []
    for number, fact in enumerate(texts):
        units += [Unit("·", "dim", gap=True)] if units else []
        units += gapped(page.words(fact, "" if number else first_style) or [Unit("-")])
    return units
