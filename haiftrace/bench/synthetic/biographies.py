"""PII-E's biographies: a subject's values word for word, in connected prose, no two texts alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from haiftrace.bench.synthetic.subjects import ATTRIBUTES, Subject
from haiftrace.bench.synthetic.templates import WORDINGS, Wordings
from haiftrace.errors import UsageError

MOST_PER_SUBJECT = 12
"""The wordings of an attribute: none is used twice for a subject."""


def write_biographies(
    locale: str, subjects: Sequence[Subject], per_subject: int, seed: int
) -> dict[str, list[str]]:
    """Biographies by subject id.

    Each states every value in a sentence of its own, in an order of its own, between sentences on
    work, a hobby and nothing in particular; no wording of a value is in two of a subject's texts.

    Raises:
        UsageError: `per_subject` is not between 1 and 12.
    """
    if not 1 <= per_subject <= MOST_PER_SUBJECT:
        raise UsageError(
            f"{per_subject} biographies a subject are not possible: there are wordings for 1 to "
            f"{MOST_PER_SUBJECT}.",
            "Give --biographies-per-subject a number in that range.",
        )
    wordings = WORDINGS[locale]
    rng = random.Random(f"{seed}:biographies:{locale}")
    return {subject.id: _texts_about(subject, wordings, per_subject, rng) for subject in subjects}


def missing_values(text: str, name: str, values: Mapping[str, str]) -> list[str]:
    """Which of "name" and the attributes do not stand in the text word for word."""
    return [key for key, value in {"name": name, **values}.items() if value not in text]


def _texts_about(subject: Subject, wordings: Wordings, count: int, rng: random.Random) -> list[str]:
    chosen = {key: rng.sample(wordings.values[key], count) for key in ATTRIBUTES}
    job, hobby = rng.choice(wordings.jobs), rng.choice(wordings.hobbies)
    texts = []
    for number in range(count):
        sentences = [
            chosen[key][number].format(name=subject.name, value=subject.values[key])
            for key in ATTRIBUTES
        ]
        sentences.append(rng.choice(wordings.work).format(name=subject.name, value=job))
        sentences.append(rng.choice(wordings.hobby).format(name=subject.name, value=hobby))
        sentences.append(rng.choice(wordings.linking))
        rng.shuffle(sentences)
        texts.append(wordings.space.join(sentences))
    return texts
