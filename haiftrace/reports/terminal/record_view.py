"""One record in a terminal report: its head, its text with the evidence of words, and a listing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from rich.cells import cell_len
from rich.text import Text

from haiftrace.findings import RecordEvidence
from haiftrace.reports.evidence_words import p_text
from haiftrace.reports.formatting import (
    clip,
    cosine_text,
    count_text,
    has_percentages,
    percent_text,
    score_text,
)
from haiftrace.reports.terminal.flow import Unit, plain_units
from haiftrace.reports.terminal.page import INDENT, Page, facts
from haiftrace.reports.terminal.pairs import print_pairs
from haiftrace.reports.word_evidence import WordEvidence, split_punctuation, strongest

_BAR = 8  # cells of the bar that compares a score with the highest
_MARKED_WORDS = 5  # words with their number in the text
_LISTED_WORDS = 8  # words in the line below it
_LISTED_FROM = 0.03  # of the strongest word's evidence
_MARKED_FROM = 0.1  # of the strongest word's evidence

# By rising evidence, relative to the strongest word of all records: (from, for, against).
_SHADES = (
    (0.05, "underline", "underline"),
    (0.2, "#000000 on #ffe3b3", "#000000 on #c5ddf5"),
    (0.5, "bold #000000 on #ffb340", "bold #ffffff on #2b6cb0"),
)


def record_text(
    page: Page, record: RecordEvidence, words: Sequence[WordEvidence], peak: float
) -> None:
    """The text with its words marked (against the record's own strongest) and shaded (`peak`)."""
    as_percent = has_percentages(record.score, [word.evidence for word in words])
    figure = partial(percent_text, score=record.score, as_percent=as_percent)
    marked = strongest(words, _MARKED_FROM)[:_MARKED_WORDS]
    marks = {id(word): figure(word.evidence) for word in marked}
    units, is_cut = page.cut(list(_record_units(page, record.text, words, marks, peak)))
    page.block(units or [Unit("(no text)", "dim")], lead="│ ")
    if is_cut:
        page.block(page.words(f"an excerpt of {count_text(len(record.text), 'character')}", "dim"))
    if record.text and not record.tokens:
        page.block(page.words("its evidence was left out of the report (--full keeps it)", "dim"))
        return
    listed = strongest(words, _LISTED_FROM)[:_LISTED_WORDS]
    page.block(_listing(page, listed, figure, as_percent=as_percent))
    print_pairs(page, record)


def record_head(page: Page, record: RecordEvidence, best_score: float) -> None:
    """Its rank, id, figures and place."""
    rank = f"#{record.rank}".ljust(INDENT - 1) + " "
    place = record.source.path
    if record.source.line is not None:
        place += f":{record.source.line}"
    link = page.link(record.source)
    name = clip(page.show(record.id), page.width // 2)
    figures = f"score {score_text(record.score)}"
    if page.verbose and record.cosine is not None:
        figures += f"  cosine {cosine_text(record.cosine)}"
    if page.verbose and record.p_value is not None:
        figures += f"  p {p_text(record.p_value)}"
    figures += f"  {_bar(record.score, best_score)}"
    room = page.width - cell_len(rank) - cell_len(name) - cell_len(figures)
    style = f"bold {link}" if record.id == place else "bold"
    title = Text.assemble((rank, "bold"), (name, style))
    if room >= 2:
        page.line(Text.assemble(title, " " * room, figures))
    else:
        page.line(title)
        page.block(page.words(figures))
    details = [] if record.id == place else [place]
    if record.windows > 1:
        details.append(f"best of {record.windows} windows, from token {record.window_start}")
    if details:
        page.block(facts(page, *details, first_style="" if record.id == place else link))


def _bar(score: float, best_score: float) -> str:
    is_comparable = best_score > 0 and math.isfinite(score / best_score)
    fraction = score / best_score if is_comparable else 0.0
    filled = round(_BAR * min(max(fraction, 0.0), 1.0))
    return "█" * filled + "░" * (_BAR - filled)


def _record_units(
    page: Page, text: str, words: Sequence[WordEvidence], marks: dict[int, str], peak: float
) -> Iterator[Unit]:
    """The record's text as units: words shaded by evidence, the marked ones in brackets."""
    end, after_gap = 0, False
    for word in words:
        mark = marks.get(id(word))
        covers_text = word.start < word.end and not text[word.start : word.end].isspace()
        if not covers_text and mark is None:
            continue  # a special token, or white space that the next gap shows
        gap = after_gap or not covers_text
        after_gap = not covers_text
        if word.start < word.end:
            between = text[end : word.start]
            yield from plain_units(between, page.show)
            gap = gap or between[-1:].isspace()
            end = word.end
        opening, core, closing = split_punctuation(word)
        style = _shade(word.evidence, peak)
        shown = page.show(core) if mark is None else f"[{clip(page.show(core))} {mark}]"
        if opening:
            yield Unit(page.show(opening), "", gap)
        yield Unit(shown, style, gap and not opening, key=mark is not None)
        if closing:
            yield Unit(page.show(closing))
    yield from plain_units(text[end:], page.show)


def _shade(evidence: float, peak: float) -> str:
    style = ""
    for lowest, supporting, opposing in _SHADES:
        if peak > 0 and abs(evidence) >= lowest * peak:
            style = supporting if evidence > 0 else opposing
    return style


def _listing(
    page: Page,
    words: Sequence[WordEvidence],
    figure: partial[str],
    *,
    as_percent: bool,
) -> list[Unit]:
    """The strongest words with their numbers, in a line."""
    if not words:
        return page.words("no word of it carries evidence", "dim")
    title = "share of score" if as_percent else "evidence (the score nearly cancels out)"
    units = page.words(f"{title}:", "dim")
    for word in words:
        _, core, _ = split_punctuation(word)
        entry = f"{clip(page.show(core))} {figure(word.evidence)}"
        units.append(Unit(entry if word is words[-1] else f"{entry},", gap=True))
    return units
