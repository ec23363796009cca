"""Where records stand, without what is the same of all places of a report."""

from __future__ import annotations

import os
from collections.abc import Iterable

from haiftrace.findings import Source
from haiftrace.reports.narrative import source_text
from haiftrace.reports.sanitize import short

_LONGEST_PLACE = 60


class Places:
    """Shortens places by the directory that all of them are in.

    Args:
        sources: all that are shown.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        directories = {os.path.dirname(source.path) for source in sources}
        try:
            self._common = os.path.commonpath(directories) if directories else ""
        except ValueError:  # absolute and relative ones, or several drives
            self._common = ""

    def short(self, source: Source) -> str:
        """A place as a reader tells it from others: `people.jsonl:17`; inert."""
        text = source_text(source)
        if self._common and text.startswith(self._common):
            text = text[len(self._common) :].lstrip("/\\") or text
        return short(text, _LONGEST_PLACE)
