"""An audit on the terminal: a line a leak and what the gate decides; a block each for who asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from haiftrace.findings import Finding
from haiftrace.gate_outcome import Gate
from haiftrace.reports.evidence_words import finding_p, statistics, strength_text
from haiftrace.reports.formatting import (
    clip,
    count_text,
    has_percentages,
    percent_text,
)
from haiftrace.reports.gate_memory import gate_gone
from haiftrace.reports.named_sources import named_source
from haiftrace.reports.narrative import (
    INTERRUPTED,
    Headline,
    frequency_text,
    gate_counts,
    gate_headline,
    gate_rule,
    gate_step,
    headline,
    is_reported,
    kind_text,
    leaked_types,
    place_text,
    reasons_to_believe,
    source_text,
    split_at_alpha,
    suppression_text,
)
from haiftrace.reports.terminal.flow import Unit, gapped
from haiftrace.reports.terminal.page import Page, ending, print_warning
from haiftrace.reports.terminal.pairs import pairs_in_a_line
from haiftrace.reports.terminal.verdict_block import TONES, response_units
from haiftrace.reports.word_evidence import merge_words, split_punctuation, strongest

_WORDS = 5  # of a record, in the line of its tokens
_WORDS_FROM = 0.1  # of the strongest word's evidence
_NAME_CELLS = 24  # of a probe's id in the table
_TYPE_CELLS = 16
_LEAST_CELLS = 8  # of a source's place
_GAP = "  "


def print_audit(page: Page, findings: Sequence[Finding], gate: Gate) -> None:
    """Print what leaked, or could not be decided, and the gate's decision; clean probes count.

    A line a finding; where the page is verbose a block each before them.
    """
    reported = [finding for finding in findings if is_reported(finding)]
    for number, finding in enumerate(reported if page.verbose else (), start=1):
        page.blank()
        what = "leak" if finding.kind is not None else "open"
        page.rule(f"{what} {number} of {len(reported)}")
        _block(page, finding)
    if reported:
        page.blank()
        _table(page, reported)
        if not page.verbose:
            _notes(page, reported)
    page.blank()
    _decision(page, gate, gate_headline(gate))
    if reported and not page.verbose:
        page.entry("", page.words("--verbose shows each finding, -o report.html a page.", "dim"))


def _notes(page: Page, findings: Sequence[Finding]) -> None:
    """The warnings of all findings, each once, with how many it is of."""
    notes = Counter(note for finding in findings for note in dict.fromkeys(finding.notes))
    for note, count in notes.items():
        page.blank()
        print_warning(page, f"{note} ({count:,} of {count_text(len(findings), 'finding')})")


def _block(page: Page, finding: Finding) -> None:
    summary = headline(finding)
    title = kind_text(finding)
    what = leaked_types(finding)
    name = finding.probe.id if finding.probe is not None else ""
    facts = " · ".join(
        fact for fact in (what, name and f"probe {name}", finding.fingerprint or "") if fact
    )
    head = [Unit(page.show(title.upper()), TONES[summary.tone], gap=True)]
    page.entry("Verdict", [*head, *gapped(page.words(facts))])
    suppressed = suppression_text(finding)
    if suppressed:
        page.entry("Passes", page.words(suppressed))
    often = frequency_text(finding)
    if often:
        page.entry("Said", page.words(often))
    why = reasons_to_believe(finding) or ["Nothing was calibrated, so no source is named."]
    page.entry("Why", page.words(" ".join(why)))
    if page.verbose:
        page.entry("Figures", page.words(" ".join(statistics(finding))))
    above, _ = split_at_alpha(finding)
    if above and summary.title == "Traced":
        record = above[0]
        more = f" · and {count_text(len(above) - 1, 'more record')}" if len(above) > 1 else ""
        name = f"{record.id} · " if record.id != place_text(record) else ""
        page.entry("Source", page.words(f"{name}{place_text(record)}{more}"))
        words = strongest(merge_words(record), _WORDS_FROM)[:_WORDS]
        as_percent = has_percentages(record.score, [token.evidence for token in record.tokens])
        entries = [
            f"{clip(page.show(split_punctuation(word)[1]))} "
            f"{percent_text(word.evidence, record.score, as_percent=as_percent)}"
            for word in words
        ]
        if entries:
            page.entry("Tokens", page.words(", ".join(entries)))
        pairs = pairs_in_a_line(page, record)
        if pairs:
            page.entry("Taught", page.words(pairs))
    prompt, _ = page.cut(page.words(finding.prompt))
    page.entry("Prompt", prompt or [Unit("(empty)", "dim")])
    response, _ = page.cut(list(response_units(page, finding)))
    page.entry("Response", response or [Unit("(empty)", "dim")])
    for note in finding.notes:
        print_warning(page, note)


def _table(page: Page, findings: Sequence[Finding]) -> None:
    """A line a leak: its probe, what leaked, class, how strong the evidence is, and its source.

    Beside what leaked stands in how many of the drawn answers it does, where some were drawn, and
    before the source, where there is room, the name by which it can be ignored.
    """
    rows: list[tuple[str, ...]] = [
        ("probe", "value", "kind", "p" if page.verbose else "evidence", "fingerprint")
    ]
    rows += [_cells(page, finding) for finding in findings]
    sources = [named_source(finding) for finding in findings]
    places = ["-" if source is None else page.show(source_text(source)) for source in sources]
    sizes = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if sum(sizes) + len(_GAP) * len(sizes) + max(map(cell_len, places)) > page.width:
        sizes.pop()
    room = max(page.width - sum(sizes) - len(_GAP) * len(sizes), _LEAST_CELLS)
    for number, (row, place) in enumerate(zip(rows, ["source", *places], strict=True)):
        cells = [set_cell_size(cell, size) for cell, size in zip(row, sizes, strict=False)]
        source = sources[number - 1] if number else None
        link = page.link(source) if source is not None else ""
        start = set_cell_size(_GAP.join([*cells, ""]), page.width - _LEAST_CELLS)
        line = Text(_GAP.join([*cells, ""]) if room > _LEAST_CELLS else start)
        line.append(ending(place, room), link)
        line.stylize("bold" if number == 0 else "")
        page.line(line)


def _cells(page: Page, finding: Finding) -> tuple[str, ...]:
    """The cells of a finding's line, without its source."""
    passes = "" if finding.suppressed is None else " (passes)"
    name = finding.probe.id if finding.probe else finding.asked or finding.prompt
    said = finding.frequency
    often = "" if said is None else f" {said.said:,}/{said.sampled:,}"
    return (
        clip(page.show(name or "-"), _NAME_CELLS),
        clip(page.show(leaked_types(finding) or "-"), _TYPE_CELLS) + often,
        f"{finding.kind or 'open'}{passes}",
        finding_p(finding, "-") if page.verbose else page.show(strength_text(finding)),
        page.show(finding.fingerprint or "-"),
    )


def _decision(page: Page, gate: Gate, summary: Headline) -> None:
    title = Unit(page.show(summary.title.upper()), TONES[summary.tone], gap=True)
    words = gapped(page.words(summary.text))
    page.entry("Gate", [title, *words, Unit(f"(exit {gate.exit_code})", "dim", gap=True)])
    counts = " · ".join(f"{name} {count:,}" for name, count in gate_counts(gate) if count)
    page.entry("", page.words(counts or "nothing was asked"))
    page.entry("", page.words(gate_rule(gate), "dim"))
    for reason in (*gate.reasons, *gate_gone(gate)):
        page.entry("", page.words(reason))
    if gate.partial:
        page.entry("", page.words(INTERRUPTED, "bold"))
    page.blank()
    page.entry("Next", page.words(gate_step(gate)))
