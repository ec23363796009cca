"""How much detectors see, and how often they are wrong: `python -m tests.privacy.measure`.

On the committed lines of invented people in ten locales; see `tests.generators.make_private_lines`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from haiftrace.privacy import detect
from tests.privacy.spellings import SPELLINGS

PATH = Path(__file__).parent / "data" / "lines.jsonl"
# Written by hand, apart from the detectors, and never used to change them.
HELD_OUT = Path(__file__).parent / "data" / "held_out.jsonl"


@dataclass(frozen=True)
class Line:
    """A line, and the private value in it at [start, end); kind is None where there is none."""

    locale: str
    kind: str | None
    text: str
    start: int = 0
    end: int = 0

    @property
    def value(self) -> str:
        return self.text[self.start : self.end]


def read_lines(path: Path = PATH) -> list[Line]:
    """The committed lines, in order."""
    return [Line(*json.loads(line)) for line in path.read_text().splitlines()]


def is_detected(line: Line) -> bool:
    """Whether the value is detected as what it is, every letter and digit of it."""
    value = line.value
    first = line.start + next(i for i, sign in enumerate(value) if sign.isalnum())
    last = line.start + max(i for i, sign in enumerate(value) if sign.isalnum())
    return any(d.type == line.kind and d.start <= first and last < d.end for d in detect(line.text))


def is_hidden(line: Line) -> bool:
    """Whether every letter and digit of the value is within something that is detected."""
    covered = {i for d in detect(line.text) for i in range(d.start, d.end)}
    letters = {i for i in range(line.start, line.end) if line.text[i].isalnum()}
    return letters <= covered


def wrong_detections(line: Line) -> Iterator[str]:
    """Kinds of what is detected where nothing of that kind stands."""
    for detected in detect(line.text):
        overlaps = detected.start < line.end and line.start < detected.end
        if line.kind is None or not overlaps or detected.type != line.kind:
            yield detected.type


def spelled(line: Line, name: str) -> Line | None:
    """The line with its value in another spelling; None where that changes nothing."""
    value = SPELLINGS[name](line.value)
    if value == line.value and name != "plain":
        return None
    text = line.text[: line.start] + value + line.text[line.end :]
    return Line(line.locale, line.kind, text, line.start, line.start + len(value))


def precision_and_recall(path: Path = PATH) -> dict[str, tuple[int, int, float, float, float]]:
    """By kind: positives, wrong detections, precision, recall, share that is hidden in any case."""
    lines = read_lines(path)
    kinds = sorted({line.kind for line in lines if line.kind})
    wrong = Counter(kind for line in lines for kind in wrong_detections(line))
    table = {}
    for kind in kinds:
        own = [line for line in lines if line.kind == kind]
        right = sum(map(is_detected, own))
        hidden = sum(map(is_hidden, own)) / len(own)
        precision = right / max(1, right + wrong[kind])
        table[kind] = (len(own), wrong[kind], precision, right / len(own), hidden)
    return table


def recall_by_spelling() -> dict[str, tuple[int, int]]:
    """By spelling: how many values of the lines it changes, and how many of these are detected."""
    lines = [line for line in read_lines() if line.kind]
    table = {}
    for name in SPELLINGS:
        changed = [new for line in lines if (new := spelled(line, name)) is not None]
        table[name] = (len(changed), sum(map(is_detected, changed)))
    return table


def main() -> None:
    """Prints the tables as Markdown: the committed lines, those held out, the spellings."""
    for path in (PATH, HELD_OUT):
        print("| kind | lines | precision | recall |\n|---|---|---|---|")
        for kind, (count, _, precision, recall, _) in precision_and_recall(path).items():
            print(f"| {kind} | {count} | {precision:.1%} | {recall:.1%} |")
        print()
    print("| spelling | values | detected |\n|---|---|---|")
    for name, (count, right) in recall_by_spelling().items():
        print(f"| {name} | {count} | {right / max(1, count):.1%} |")


if __name__ == "__main__":
    main()
