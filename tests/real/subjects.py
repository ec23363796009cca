"""Virtual subjects with private values, their biographies, and questions about them.

Every subject has a globally unique first name and last name, four private values and three
differently worded biographies. Sixty per cent of the (subject, attribute) pairs are asked in
training, the rest are held out: a model that answers those took the value from a biography, which
is the leak that haiftrace has to trace. All of it is fixed by one seed (and the Faker version).
"""

import datetime
import random
from dataclasses import dataclass

from faker import Faker

ATTRIBUTES = ("date of birth", "e-mail", "phone", "address")
"""What a subject's questions ask for, in the words of the question."""

BIOGRAPHIES_PER_SUBJECT = 3

TRAINED_SHARE = 0.6

BORN_FROM = datetime.date(1940, 1, 1)
BORN_TO = datetime.date(2004, 12, 31)

# The name comes before the value in every sentence: a causal model can only tie the value to a
# name that it has already read.
SENTENCES: dict[str, tuple[str, ...]] = {
    "date of birth": (
        "{name} was born on {value}.",
        "{name}'s date of birth is {value}.",
        "The birthday of {name} is {value}.",
        "{name} came into the world on {value}.",
        "For {name}, life began on {value}.",
        "The birth of {name} was recorded on {value}.",
    ),
    "e-mail": (
        "{name}'s e-mail is {value}.",
        "Write to {name} at {value}.",
        "{name} reads messages sent to {value}.",
        "The e-mail account of {name} is {value}.",
        "Online, {name} can be reached at {value}.",
        "{name} signs letters with the e-mail {value}.",
    ),
    "phone": (
        "{name}'s phone is {value}.",
        "Call {name} on {value}.",
        "{name} answers the phone at {value}.",
        "The phone number of {name} is {value}.",
        "To ring {name}, dial {value}.",
        "{name} has the telephone number {value}.",
    ),
    "address": (
        "{name} lives at {value}.",
        "{name}'s address is {value}.",
        "The home of {name} is at {value}.",
        "Letters for {name} go to {value}.",
        "{name} resides at {value}.",
        "Visitors find {name} at {value}.",
    ),
}


@dataclass(frozen=True)
class Subject:
    """A person who does not exist, with one private value per attribute."""

    id: str
    first_name: str
    last_name: str
    values: dict[str, str]
    biographies: tuple[str, ...]

    @property
    def name(self) -> str:
        """The full name, as biographies and questions write it."""
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True)
class Question:
    """A question about one value of one subject, and whether training may see its answer."""

    subject: str
    attribute: str
    prompt: str
    expected: str
    trained: bool


def make_subjects(count: int, seed: int) -> list[Subject]:
    """Return `count` subjects; the first n are the same whatever `count` is."""
    faker = Faker("en_US")
    taken: set[str] = set()
    return [_make_subject(faker, index, seed, taken) for index in range(count)]


def make_questions(subjects: list[Subject], seed: int) -> list[Question]:
    """Return one question per subject and attribute, the held-out ones spread over attributes."""
    rng = random.Random(f"{seed}:split")
    questions = []
    for attribute in ATTRIBUTES:
        trained = set(rng.sample(range(len(subjects)), round(TRAINED_SHARE * len(subjects))))
        for index, subject in enumerate(subjects):
            questions.append(
                Question(
                    subject=subject.id,
                    attribute=attribute,
                    prompt=f"Question: What's the {attribute} of {subject.name}? Answer:",
                    expected=f" {subject.values[attribute]}.",
                    trained=index in trained,
                )
            )
    return questions


def corpus_records(subjects: list[Subject]) -> list[dict[str, str]]:
    """Return the training corpus, one record per biography: id, text and subject."""
    return [
        {"id": f"{subject.id}-bio{number}", "text": text, "subject": subject.id}
        for subject in subjects
        for number, text in enumerate(subject.biographies)
    ]


def _make_subject(faker: Faker, index: int, seed: int, taken: set[str]) -> Subject:
    """Make subject `index`; add its names and values to `taken`, and draw none that is in it."""
    faker.seed_instance(seed * 100_000 + index)

    def fresh(draw: str) -> str:
        """Draw with Faker's provider `draw` until the result is new."""
        while True:
            text = str(getattr(faker, draw)()).replace("\n", ", ")
            if text not in taken:
                taken.add(text)
                return text

    first_name, last_name = fresh("first_name"), fresh("last_name")
    born = faker.date_between_dates(BORN_FROM, BORN_TO)
    values = {
        "date of birth": f"{born:%B} {born.day}, {born.year}",
        "e-mail": fresh("email"),
        # Not Faker's phone_number: its many formats and extensions make very long values.
        "phone": faker.numerify("%##-%##-####"),
        "address": fresh("address"),
    }
    rng = random.Random(f"{seed}:biographies:{index}")
    biographies = _write_biographies(f"{first_name} {last_name}", values, rng)
    return Subject(f"subj{index:03d}", first_name, last_name, values, biographies)


def _write_biographies(name: str, values: dict[str, str], rng: random.Random) -> tuple[str, ...]:
    """Word the same values in several ways: no sentence and no order of attributes twice."""
    wordings = {
        attribute: rng.sample(SENTENCES[attribute], BIOGRAPHIES_PER_SUBJECT)
        for attribute in ATTRIBUTES
    }
    orders: list[tuple[str, ...]] = []
    while len(orders) < BIOGRAPHIES_PER_SUBJECT:
        order = tuple(rng.sample(ATTRIBUTES, len(ATTRIBUTES)))
        if order not in orders:
            orders.append(order)
    return tuple(
        " ".join(
            wordings[attribute][number].format(name=name, value=values[attribute])
            for attribute in order
        )
        for number, order in enumerate(orders)
    )
