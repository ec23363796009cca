"""A corpus as windows, and what a first pass through it counts before any gradient is formed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from haiftrace import corpus as corpora
from haiftrace.checkpoint.load import Checkpoint
from haiftrace.corpus import CorpusSettings, ReadReport, Record
from haiftrace.corpus.corpus_file import plain
from haiftrace.corpus.training_form import FormSample
from haiftrace.corpus.windows import Window, windows_of
from haiftrace.errors import CorpusError
from haiftrace.progress import Progress


class Reservoir:
    """A uniform sample of what passes by, without repetition (Vitter's algorithm R).

    Args:
        size: of the sample; all where less passes by.
        seed: of the draws: the same for the same stream.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._seen = 0
        self._kept: list[list[int]] = []

    def offer(self, token_ids: list[int]) -> None:
        """One window more."""
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(token_ids)
            return
        place = int(self._rng.integers(self._seen))
        if place < self._size:
            self._kept[place] = token_ids

    def sample(self, tokens: int) -> list[list[int]]:
        """Token ids of sampled windows, in no order: as many as have so many tokens, at least one.

        Args:
            tokens: where the windows are long, fewer of them do.
        """
        order = np.random.default_rng(self._seen).permutation(len(self._kept))
        chosen: list[list[int]] = []
        for place in order:
            window = self._kept[place]
            if chosen and sum(map(len, chosen)) + len(window) > tokens:
                break
            chosen.append(window)
        return chosen


@dataclass
class Census:
    """What a pass through the corpus counts.

    Attributes:
        records: with a label; without_label: those without; grouped: those with a group.
        squared: Σ T·m over the windows, of T tokens and m labels.
        sample: of the windows.
        form: of how the records show that the model is asked.
    """

    sample: Reservoir
    form: FormSample = field(default_factory=FormSample)
    records: int = 0
    windows: int = 0
    labels: int = 0
    tokens: int = 0
    without_label: int = 0
    grouped: int = 0
    characters: int = 0
    squared: float = 0.0


@dataclass
class Reader:
    """The corpus as windows; it is read twice: once to count, once to work.

    Attributes:
        report: what was left out, of the present reading.
    """

    checkpoint: Checkpoint
    corpus: CorpusSettings
    context: int
    append_eos: bool
    report: ReadReport = field(default_factory=ReadReport)

    def records(self) -> Iterator[tuple[Record, list[Window]]]:
        """Every record with its windows, none where it has no label.

        Raises:
            CorpusError: something in the corpus is no record of this model.
        """
        self.report = ReadReport()
        for record in corpora.read_records(self.corpus, self.report):
            windows = windows_of(
                record,
                self.checkpoint.tokenizer,
                self.context,
                self.corpus.loss_on,
                self.append_eos,
            )
            for window in windows:
                if max(window.token_ids) >= self.checkpoint.vocabulary:
                    raise CorpusError(
                        f"{record.path}:{record.line}: the record holds a special token that the"
                        " model's embedding has no row for.",
                        "Remove that marker from the record."
                        if record.token_ids is None
                        else "Give the checkpoint that was trained on these token ids.",
                    )
            yield record, windows

    def census(self, sample: Reservoir, progress: Progress) -> Census:
        """Count everything once.

        Raises:
            CorpusError: nothing in the corpus can be indexed.
        """
        census = Census(sample)
        for record, windows in self.records():
            progress.advance(1, records=1, tokens=sum(len(w.token_ids) for w in windows))
            census.form.offer(record)
            census.records += bool(windows)
            census.without_label += not windows
            census.grouped += record.group is not None
            census.windows += len(windows)
            census.characters += len(windows[0].text if windows else record.text)
            for window in windows:
                census.tokens += len(window.token_ids)
                census.labels += sum(window.labels)
                census.squared += float(len(window.token_ids)) * sum(window.labels)
                sample.offer(window.token_ids)
        if not census.windows:
            raise CorpusError(
                f"No record of the corpus has a label: all {census.without_label} have a single"
                " token, or no response to put the loss on.",
                "Check --format, --text-field and --loss-on.",
            )
        if self.corpus.group_field is not None and not census.grouped:
            raise CorpusError(
                f"No record of the corpus has the group field '{plain(self.corpus.group_field)}'.",
                "Name the field that records on the same subject share with --group-field.",
            )
        return census
