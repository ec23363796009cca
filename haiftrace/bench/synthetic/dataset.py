"""What every bench data set is: training records, and questions, trained or held out.

Records are a corpus to trace in; questions are trained or held out. A held-out question answered
right is a leak whose source is known: any record of the question's subject.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TRAINED_FRACTION = 0.6
"""Of the (subject, attribute) pairs: those whose question is trained (Liu and Yang, section 5)."""

NAME = "name"
"""The kind of a span that holds the subject's name."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a record's text hold what `kind` says: a name, a phone, ..."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class TrainingRecord:
    """One training text about one subject.

    Attributes:
        id: unique in the data set.
        subject: id of the person it is about.
        text: what the model is trained on.
        spans: where the subject's name and the values (PII-E: the attributes; PII-CR: "festival"
            and "landmark") stand in the text, by position.
    """

    id: str
    subject: str
    text: str
    spans: tuple[Span, ...]

    def values(self) -> tuple[Span, ...]:
        """The spans of the record's values, without the name."""
        return tuple(span for span in self.spans if span.kind != NAME)


@dataclass(frozen=True)
class ProbeQuestion:
    """A question about one attribute of one subject.

    Attributes:
        id: unique in the data set.
        subject: id of the person; that person's records are the answer's source.
        attribute: "birth", "phone", ..., the same in every language.
        prompt: the question.
        answer: the right answer.
        trained: whether training shows the answer.
    """

    id: str
    subject: str
    attribute: str
    prompt: str
    answer: str
    trained: bool

    @property
    def response(self) -> str:
        """The answer as it continues the prompt.

        The space is there in Chinese too: every tokenizer splits before it, so prompt and
        response have the same tokens together and apart.
        """
        return f" {self.answer}"


@dataclass(frozen=True)
class BenchData:
    """A data set: one seed and the same options give the same text (and Faker version, for names).

    Attributes:
        kind: "pii-e" or "pii-cr".
        locale: "en_US" or "zh_CN".
        seed: of everything that was sampled.
        subjects: names by subject id, in order.
        records: the corpus, shuffled.
        questions: all of them, by attribute and subject.
        background: pairs (prompt, response) of common knowledge that training shows beside the
            trained questions; no records, so no candidates.
    """

    kind: str
    locale: str
    seed: int
    subjects: Mapping[str, str]
    records: tuple[TrainingRecord, ...]
    questions: tuple[ProbeQuestion, ...]
    background: tuple[tuple[str, str], ...] = ()

    def trained(self) -> list[ProbeQuestion]:
        """The questions that training shows."""
        return [question for question in self.questions if question.trained]

    def held_out(self) -> list[ProbeQuestion]:
        """The questions that it does not."""
        return [question for question in self.questions if not question.trained]

    def sources(self, question: ProbeQuestion) -> list[int]:
        """Positions in `records` of those about the question's subject."""
        return [k for k, record in enumerate(self.records) if record.subject == question.subject]


def find_spans(text: str, values: Mapping[str, str]) -> tuple[Span, ...]:
    """Every verbatim occurrence of the values in a text, by position."""
    spans = []
    for kind, value in values.items():
        start = text.find(value)
        while start >= 0:
            spans.append(Span(kind, start, start + len(value)))
            start = text.find(value, start + len(value))
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def choose_trained(
    subjects: Sequence[str], attributes: Iterable[str], seed: int
) -> set[tuple[str, str]]:
    """The (subject, attribute) pairs that are trained: the same fraction of every attribute."""
    rng = random.Random(f"{seed}:split")
    count = round(TRAINED_FRACTION * len(subjects))
    return {(who, what) for what in attributes for who in rng.sample(list(subjects), count)}


def make_questions(
    answers: Mapping[str, Mapping[str, str]],
    prompts: Mapping[str, Mapping[str, str]],
    seed: int,
) -> tuple[ProbeQuestion, ...]:
    """A question for each subject and attribute.

    Args:
        answers: by attribute, then by subject id.
        prompts: likewise.
        seed: of the split into trained and held out.
    """
    subjects = list(next(iter(answers.values())))
    trained = choose_trained(subjects, answers, seed)
    return tuple(
        ProbeQuestion(
            id=f"{who}-{attribute}",
            subject=who,
            attribute=attribute,
            prompt=prompts[attribute][who],
            answer=answer,
            trained=(who, attribute) in trained,
        )
        for attribute, by_subject in answers.items()
        for who, answer in by_subject.items()
    )
