"""Whose national phone numbers an audit looks for where nobody said: by the corpus' languages."""

from __future__ import annotations

from dataclasses import replace

from haiftrace.privacy import DetectionSettings, regions_of
from haiftrace.store import Index

_MOST_WINDOWS = 256


def with_corpus_regions(index: Index, detection: DetectionSettings) -> DetectionSettings:
    """The settings with the regions of the languages of an index's windows, evenly sampled."""
    step = max(1, -(-len(index) // _MOST_WINDOWS))
    texts = (window.text for window in index.iter_windows(range(0, len(index), step)))
    return replace(detection, regions=regions_of(texts))
