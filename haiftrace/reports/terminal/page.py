"""Lines on a console: how wide they are, how they look, which characters they may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

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
    """

    def __init__(self, console: Console, full: bool, verbose: bool = False) -> None:
        self._console = console
        self.styled = console.color_system is not None and not console.no_color
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


def print_warning(page: Page, note: str) -> None:
    """A note that must not be overlooked."""
    page.entry("Warning", page.words(note, "bold"), label_style="bold #000000 on #ffb340")


def facts(page: Page, *texts: str) -> list[Unit]:
    """Texts in a line, with dots between."""
    units: list[Unit] = []
    for fact in texts:
        units += [Unit("·", "dim", gap=True)] if units else []
        units += gapped(page.words(fact) or [Unit("-")])
    return units
