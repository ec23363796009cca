"""A figure of a trace, for a paper or a slide: the answer, its record, and which word taught which.

SVG that any program draws alike: no script, no style sheet, nothing from elsewhere, each word at
its place and of its width. Colours are of Okabe and Ito's palette, which who sees colours otherwise
tells apart; what they say is in signs and figures, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from xml.sax.saxutils import escape, quoteattr

from haiftrace.errors import OutputError
from haiftrace.findings import Finding, PairEvidence, RecordEvidence, Report
from haiftrace.reports.figure_layout import Column, Piece, Placed, cut, laid, pieces_of
from haiftrace.reports.formatting import count_text, has_percentages, percent_text, score_text
from haiftrace.reports.glyph_widths import text_width
from haiftrace.reports.marks import level, peak_evidence
from haiftrace.reports.narrative import (
    headline,
    is_reported,
    place_text,
    source_text,
    split_at_alpha,
    traced_to,
)
from haiftrace.reports.sanitize import inert
from haiftrace.reports.word_evidence import (
    WordEvidence,
    merge_words,
    split_text_punctuation,
    strongest,
)

WIDTH = 760
_MARGIN, _PADDING = 28, 16
_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_TEXT = Column(_MARGIN, WIDTH - 2 * _MARGIN, 13, 18)
_SAID = Column(_MARGIN, WIDTH - 2 * _MARGIN, 16, 26)
_RECORD = Column(_MARGIN + _PADDING, WIDTH - 2 * (_MARGIN + _PADDING), 15, 36)
_ARROWS_ROOM = 56  # between answer and record
_NUMBER_SIZE = 11
_MOST_FINDINGS = 6
_MOST_WORDS = 130  # of a record; of a longer one what stands around its strongest words
_NUMBERED, _NUMBERED_FROM = 5, 0.1  # words with their number, of the strongest word's evidence
_ARROWS, _ARROWS_FROM = 8, 0.05  # and of the strongest pair's

_INK, _FAINT, _RULE = "#1a1a1a", "#595959", "#c8c8c8"
_FOR, _AGAINST, _ARROW = "#e69f00", "#56b4e9", "#0072b2"
_SHADES = (0.0, 0.25, 0.5, 0.9)  # opacity by level


@dataclass
class _Canvas:
    """Elements in three layers, the later above the earlier."""

    below: list[str] = field(default_factory=list)
    arrows: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def words(self, words: Sequence[Placed], size: float, fill: str = _INK, **more: str) -> None:
        """Draws each word, fitted to its width."""
        attributes = "".join(
            f" {name.replace('_', '-')}={quoteattr(v)}" for name, v in more.items()
        )
        for word in words:
            self.text.append(
                f'<text x="{word.x:.1f}" y="{word.baseline:.1f}" font-size="{size:g}" fill="{fill}"'
                f' textLength="{word.width:.1f}" lengthAdjust="spacingAndGlyphs"{attributes}>'
                f"{_xml(word.piece.text)}</text>"
            )

    def line(self, text: str, column: Column, top: float, fill: str = _INK, **more: str) -> float:
        """Draws a text of several lines; gives the next baseline."""
        placed, after = laid(pieces_of(text, ()), column, top)
        self.words(placed, column.size, fill, **more)
        return after


def render_svg(report: Report) -> str:
    """The findings of a trace as one SVG document.

    Raises:
        OutputError: it is an audit with more findings than a figure holds.
    """
    findings = [f for f in report.findings if report.gate is None or is_reported(f)]
    if report.gate is not None and len(findings) > _MOST_FINDINGS:
        raise OutputError(
            f"A figure is of a trace, and this audit has {count_text(len(findings), 'finding')}.",
            "Choose one: haiftrace report report.json --finding FINGERPRINT -o figure.svg",
        )
    canvas = _Canvas()
    top = 24.0
    for number, finding in enumerate(findings[:_MOST_FINDINGS]):
        if number:
            canvas.below.append(_rule(top - 4))
            top += 26
        top = _panel(canvas, finding, top)
    left_out = len(findings) - _MOST_FINDINGS
    if left_out > 0:
        what = count_text(left_out, "further finding")
        top = canvas.line(f"{what}: the other formats show them.", _TEXT, top + 8, _FAINT)
    if not findings:
        top = canvas.line("Nothing was traced: the report holds no finding.", _TEXT, top)
    top = _legend(canvas, findings, top + 10, report.tool_version)
    return _document(canvas, top, findings)


def _panel(canvas: _Canvas, finding: Finding, top: float) -> float:
    """Draws a finding; gives where the next begins."""
    said = headline(finding)
    top = canvas.line(said.title, _TEXT, top, font_weight="bold")
    top = canvas.line(said.text, _TEXT, top, _FAINT)
    top = canvas.line("Asked", _TEXT, top + 8, _FAINT)
    top = canvas.line(finding.asked or finding.prompt or "(empty)", _SAID, top + 4)
    top = canvas.line("Answered", _TEXT, top, _FAINT)
    answer, top = _answer(canvas, finding, top + 4)
    above, _ = split_at_alpha(finding)
    record = traced_to(finding) or next(iter(above), None)
    if record is None:
        return canvas.line("No record stands out from chance.", _TEXT, top + 8, font_style="italic")
    pairs = _shown_pairs(record) if answer else []
    top += _ARROWS_ROOM - _SAID.leading if pairs else 8
    top = _record(canvas, finding, record, pairs, answer, top)
    # Below, where no arrow crosses it; without the folders, which are nobody's concern in print.
    source = record.source
    place = source_text(replace(source, path=PurePath(source.path).name))
    name = place if record.id == place_text(record) else f"{record.id} ({place})"
    return canvas.line(
        f"Training record {name}, score {score_text(record.score)}", _TEXT, top, _FAINT
    )


def _answer(canvas: _Canvas, finding: Finding, top: float) -> tuple[list[Placed], float]:
    """Draws the response with a frame around what was traced; gives the traced words."""
    text = finding.response
    start = text.find(finding.span) if finding.span else 0
    end = start + len(finding.span) if finding.span and start >= 0 else len(text)
    start = max(start, 0)
    placed, after = laid(pieces_of(text, ()), _SAID, top)
    canvas.words(placed, _SAID.size)
    traced = [word for word in placed if word.piece.start < end and start < word.piece.end]
    for line in dict.fromkeys(word.baseline for word in traced):
        words = [word for word in traced if word.baseline == line]
        left = min(word.x for word in words) - 2.5
        right = max(word.x + word.width for word in words) + 2.5
        canvas.below.append(
            f'<rect x="{left:.1f}" y="{line - 16:.1f}" width="{right - left:.1f}" height="22"'
            f' rx="4" fill="none" stroke="{_ARROW}" stroke-width="1.2"/>'
        )
    return traced, after


def _record(
    canvas: _Canvas,
    finding: Finding,
    record: RecordEvidence,
    pairs: Sequence[PairEvidence],
    answer: Sequence[Placed],
    top: float,
) -> float:
    """Draws a record in its frame, and the arrows to the answer."""
    words = [word for word in merge_words(record) if word.start < word.end and word.text.strip()]
    peak = peak_evidence(finding.records)
    pieces = pieces_of(record.text, [(word.start, word.end) for word in words])
    numbered = {(word.start, word.end) for word in strongest(words, _NUMBERED_FROM)[:_NUMBERED]}
    seen = [*numbered, *((pair.start, pair.end) for pair in pairs)]
    keys = [n for n, piece in enumerate(pieces) if any(_overlaps(piece, *span) for span in seen)]
    shown = cut(pieces, _MOST_WORDS, keys) or [Piece("(no text)", 0, 0)]
    placed, after = laid(shown, _RECORD, top + _PADDING + 12)
    canvas.below.append(
        f'<rect x="{_MARGIN}" y="{top - 8:.1f}" width="{WIDTH - 2 * _MARGIN}"'
        f' height="{after - top - 4:.1f}" rx="6" fill="none" stroke="{_RULE}"/>'
    )
    evidence = {(word.start, word.end): word for word in words}
    as_percent = has_percentages(record.score, [word.evidence for word in words])
    numbers: list[Placed] = []
    for word in placed:
        place = (word.piece.start, word.piece.end)
        if place in evidence:
            canvas.below += _shade(word, evidence[place], peak)
        if place in numbered:
            number = percent_text(evidence[place].evidence, record.score, as_percent=as_percent)
            numbers.append(_above(word, number, numbers))
    canvas.words(numbers, _NUMBER_SIZE, font_weight="bold")
    canvas.words(placed, _RECORD.size)
    _arrows(canvas, pairs, placed, answer, {number.piece.start for number in numbers})
    return after + 12


def _above(word: Placed, number: str, others: Sequence[Placed]) -> Placed:
    """A number above its word, or beside the last one where that is in its place."""
    width = 1.06 * text_width(number, _NUMBER_SIZE)  # in bold
    x, baseline = word.middle - width / 2, word.baseline - 16
    last = others[-1] if others and others[-1].baseline == baseline else None
    if last is not None and last.middle < word.middle:
        x = max(x, last.x + last.width + 3)
    elif last is not None:  # from right to left
        x = min(x, last.x - 3 - width)
    return Placed(replace(word.piece, text=number), x, baseline, width)


def _shade(word: Placed, evidence: WordEvidence, peak: float) -> Iterator[str]:
    """A word's colour by its evidence; dashes under it where that speaks against the record."""
    depth = level(evidence.evidence, peak)
    if not depth:
        return
    fill = _FOR if evidence.evidence > 0 else _AGAINST
    yield (
        f'<rect x="{word.x - 2:.1f}" y="{word.baseline - 14:.1f}" width="{word.width + 4:.1f}"'
        f' height="19" rx="3" fill="{fill}" fill-opacity="{_SHADES[depth]:g}"/>'
    )
    if evidence.evidence < 0:
        yield (
            f'<path d="M{word.x:.1f} {word.baseline + 5:.1f}h{word.width:.1f}" stroke="{_ARROW}"'
            ' stroke-width="1.5" stroke-dasharray="3 2"/>'
        )


def _shown_pairs(record: RecordEvidence) -> list[PairEvidence]:
    """The strongest pairs that speak for the record."""
    positive = sorted((p for p in record.pairs if p.evidence > 0), key=lambda p: -p.evidence)
    return [p for p in positive if p.evidence >= _ARROWS_FROM * positive[0].evidence][:_ARROWS]


def _arrows(
    canvas: _Canvas,
    pairs: Sequence[PairEvidence],
    record: Sequence[Placed],
    answer: Sequence[Placed],
    numbered: Collection[int],
) -> None:
    """From each word of the record, or its number, up to the word of the answer that it taught.

    Args:
        numbered: where the words with a number above them begin in the record.
    """
    strongest_pair = max((pair.evidence for pair in pairs), default=0.0)
    ends = _ends(pairs, answer)
    for pair in reversed(pairs):  # the strongest above the others
        source = next((w for w in record if _overlaps(w.piece, pair.start, pair.end)), None)
        target = ends.get(pair.response_positions)
        if source is None or target is None:
            continue
        width = 1 + 3 * pair.evidence / strongest_pair
        rise = 28 if source.piece.start in numbered else 15
        x, y = source.middle, source.baseline - rise
        to_x, to_y = target.middle, target.baseline + 14
        bend = max((y - to_y) / 2, 12)
        canvas.arrows.append(
            f'<path d="M{x:.1f} {y:.1f}C{x:.1f} {y - bend:.1f} {to_x:.1f} {to_y + bend:.1f}'
            f' {to_x:.1f} {to_y:.1f}" fill="none" stroke="{_ARROW}" stroke-width="{width:.1f}"'
            f' stroke-opacity="{0.45 + 0.45 * pair.evidence / strongest_pair:.2f}"/>'
            f'<path d="M{to_x - 5:.1f} {to_y + 1:.1f}L{to_x:.1f} {to_y - 7:.1f}L{to_x + 5:.1f}'
            f' {to_y + 1:.1f}z" fill="{_ARROW}"/>'
        )


def _ends(pairs: Sequence[PairEvidence], answer: Sequence[Placed]) -> dict[tuple[int, ...], Placed]:
    """The traced word of the answer that each pair's positions mean, in the answer's order."""
    ends: dict[tuple[int, ...], Placed] = {}
    at = 0
    texts = {pair.response_positions: pair.response_text for pair in pairs}
    for positions in sorted(texts):
        core = inert(split_text_punctuation(texts[positions])[1])
        place = next((n for n in range(at, len(answer)) if core in answer[n].piece.text), None)
        if place is not None:
            ends[positions] = answer[place]
            at = place
    return ends


def _overlaps(piece: Piece, start: int, end: int) -> bool:
    return piece.start < end and start < piece.end


def _legend(canvas: _Canvas, findings: Sequence[Finding], top: float, version: str) -> float:
    records = [record for finding in findings for record in finding.records]
    if not any(record.tokens for record in records):
        return top
    words = "+31%: share of the record's score. Orange speaks for the record, blue with dashes"
    arrows = " against it. Arrows: which word taught which; the wider, the stronger."
    said = words + (arrows if any(record.pairs for record in records) else " against it.")
    column = Column(_MARGIN, WIDTH - 2 * _MARGIN, 11, 15)
    return canvas.line(f"{said} haiftrace {version}", column, top, _FAINT)


def _rule(y: float) -> str:
    return f'<path d="M{_MARGIN} {y:.1f}h{WIDTH - 2 * _MARGIN}" stroke="{_RULE}"/>'


def _document(canvas: _Canvas, height: float, findings: Sequence[Finding]) -> str:
    """The elements in a page, with what it shows in words."""
    title = f"Leak trace: {headline(findings[0]).title}" if findings else "Leak trace"
    described = " ".join(f"{headline(f).title}. {headline(f).text}" for f in findings[:6])
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    elements = "\n".join([*canvas.below, *canvas.arrows, *canvas.text])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
        f' aria-labelledby="title described" font-family="{_FONT}">\n'
        f'<title id="title">{_xml(inert(title))}</title>\n'
        f'<desc id="described">{_xml(inert(described))}</desc>\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n{elements}\n</svg>\n'
    )


def _xml(text: str) -> str:
    """Inert text as an element's content; the two characters that XML has not are replaced."""
    return escape(text.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"))
