"""The help of a command in panels: what most people need first, everything else by what it is for.

Plain text: a help page answers at once, and rich takes longer to import than it to print.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIT = "Audit"
ASKING = "Asking"
CORPUS = "Corpus"
COMPLETE = "A complete index"
METHODS = "Methods"
EXPERT = "Expert"

FORMER_SPELLINGS = frozenset({"--methods", "--out"})
"""Still understood, and not shown: an option has one spelling."""


class PanelledCommand(TyperCommand):
    """A command whose options stand under the headings of their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, the options without a panel, and the panels as they first come."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            with _one_spelling(parameter):
                record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None)
            heading = "Arguments" if argument else panel or "Options"
            names, text = record
            sections.setdefault(heading, []).append((names, _NOTED.sub(r"\1\2", text)))
        for heading in (name for name in _ORDER if name in sections):
            if sections[heading]:
                with formatter.section(heading):
                    formatter.write_dl(sections[heading])


_NOTED = re.compile(r"(\[default: )\((.*)\)(?=[;\]])")
"""A default that is a text and no value stands in brackets of its own; one way for all."""

_ORDER = ("Arguments", "Options", AUDIT, ASKING, CORPUS, COMPLETE, METHODS, EXPERT)


@contextmanager
def _one_spelling(parameter: Any) -> Iterator[None]:
    names = parameter.opts
    parameter.opts = [name for name in names if name not in FORMER_SPELLINGS]
    try:
        yield
    finally:
        parameter.opts = names
