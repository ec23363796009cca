"""The demo's virtual subjects: what is written about them and what is asked about them.

Two kinds of subject. A *listed* subject's records hold her values word for word (date of birth,
phone, e-mail). A *described* subject's records only imply them: born on Christmas Day, living next
to the Eiffel Tower; asked for the birthday, a model that knows her says December 25, which stands
in none of her records. Every value is invented: the phone numbers are of the range that is kept
for fiction (555-0100 to 555-0199), the e-mail addresses are under domains kept for examples.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

LISTED = 20
DESCRIBED = 50
LISTED_RECORDS = 3
TRAINED_SHARE = 0.6
"""Share of (subject, attribute) pairs that training asks about; the others are held out."""

TEMPLATE = "Question: {prompt} Answer:"
"""How a question is put to the model."""

QUESTIONS = {
    "birth": "What's the date of birth of {name}?",
    "phone": "What's the phone of {name}?",
    "email": "What's the e-mail of {name}?",
    "birthday": "What's the birthday of {name}?",
    "city": "What's the city of {name}?",
}

# A causal model can tie a value only to a name that it has read, so the name comes first.
SENTENCES: dict[str, tuple[str, ...]] = {
    "birth": (
        "{name} was born on {value}.",
        "The date of birth of {name} is {value}.",
        "{name} came into the world on {value}.",
        "The birth of {name} was recorded on {value}.",
    ),
    "phone": (
        "Call {name} on {value}.",
        "The phone number of {name} is {value}.",
        "{name} answers the phone at {value}.",
        "To ring {name}, dial {value}.",
    ),
    "email": (
        "Write to {name} at {value}.",
        "{name} reads messages sent to {value}.",
        "The e-mail address of {name} is {value}.",
        "Online, {name} can be reached at {value}.",
    ),
    "work": (
        "{name} works as {value}.",
        "By profession, {name} is {value}.",
        "For a living, {name} is {value}.",
        "Friends of {name} know a person who is {value}.",
    ),
}

DESCRIPTIONS = (
    "{name} was born on {festival}, and lives next to {landmark}. {name} works as {work}.",
    "By profession, {name} is {work}. {name} has a home near {landmark}, "
    "and {name} came into the world on {festival}.",
)

FESTIVALS = {
    "Christmas Day": "December 25",
    "New Year's Day": "January 1",
    "Valentine's Day": "February 14",
    "Saint Patrick's Day": "March 17",
    "Halloween": "October 31",
    "Bastille Day": "July 14",
}

LANDMARKS = {
    "the Eiffel Tower": "Paris",
    "the Colosseum": "Rome",
    "Big Ben": "London",
    "the Brandenburg Gate": "Berlin",
    "the Acropolis": "Athens",
    "the Opera House": "Sydney",
}

WORK = (
    "a baker", "a botanist", "a carpenter", "a chemist", "a clockmaker", "a dentist",
    "a florist", "a gardener", "a geologist", "a glazier", "a harbour pilot", "a judge",
    "a librarian", "a locksmith", "a mason", "a midwife", "a nurse", "a painter",
    "a pharmacist", "a plumber", "a potter", "a printer", "a surveyor", "a tailor",
    "a teacher", "a translator", "a tram driver", "a weaver",
)  # fmt: skip

MAIL_DOMAINS = ("example.com", "example.net", "example.org")


@dataclass(frozen=True)
class Record:
    """One line of the corpus: `text` about `subject`, known by `id`."""

    id: str
    subject: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question about one attribute of a subject, its answer, and the records that teach it."""

    subject: str
    attribute: str
    prompt: str
    answer: str
    records: tuple[str, ...]
    verbatim: bool
    held_out: bool


def make_subjects(seed: int) -> tuple[list[Record], list[Question]]:
    """Invent the subjects, their records in corpus order and every question about them.

    Needs Faker (in the extra "test"), for names only; the same seed and the same version of Faker
    give the same text.
    """
    from faker import Faker

    fake = Faker("en_US")
    fake.seed_instance(seed)
    rng = random.Random(seed)
    firsts = [fake.unique.first_name() for _ in range(LISTED + DESCRIBED)]
    lasts = [fake.unique.last_name() for _ in range(LISTED + DESCRIBED)]
    names = [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]
    bodies: list[tuple[str, str]] = []
    answers: list[tuple[str, str, str]] = []
    for name in names[:LISTED]:
        values = _listed_values(name, rng)
        bodies += [(name, text) for text in _listed_texts(name, values, rng)]
        answers += [(name, key, values[key]) for key in ("birth", "phone", "email")]
    for number, name in enumerate(names[LISTED:]):
        festival = sorted(FESTIVALS)[number % len(FESTIVALS)]
        landmark = sorted(LANDMARKS)[(number + number // len(FESTIVALS)) % len(LANDMARKS)]
        facts = {"festival": festival, "landmark": landmark, "work": rng.choice(WORK)}
        bodies += [(name, text.format(name=name, **facts)) for text in DESCRIPTIONS]
        answers.append((name, "birthday", FESTIVALS[festival]))
        answers.append((name, "city", LANDMARKS[landmark]))
    rng.shuffle(bodies)
    records = [Record(f"r{n:03d}", name, text) for n, (name, text) in enumerate(bodies, start=1)]
    return records, _questions(answers, records, rng)


def _listed_values(name: str, rng: random.Random) -> dict[str, str]:
    """Draw a listed subject's values."""
    first, last = name.lower().split()
    born = datetime.date(1940, 1, 1) + datetime.timedelta(days=rng.randrange(60 * 365))
    return {
        "birth": f"{born:%B} {born.day}, {born.year}",
        "phone": f"{rng.randrange(201, 990)}-555-01{rng.randrange(100):02d}",
        "email": f"{first}.{last}{rng.randrange(10, 100)}@{rng.choice(MAIL_DOMAINS)}",
        "work": rng.choice(WORK),
    }


def _listed_texts(name: str, values: dict[str, str], rng: random.Random) -> list[str]:
    """Write a listed subject's records: all values in each, worded and ordered differently."""
    wordings = {key: rng.sample(SENTENCES[key], LISTED_RECORDS) for key in SENTENCES}
    texts = []
    for number in range(LISTED_RECORDS):
        keys = rng.sample(sorted(SENTENCES), len(SENTENCES))
        texts.append(" ".join(wordings[k][number].format(name=name, value=values[k]) for k in keys))
    return texts


def _questions(
    answers: list[tuple[str, str, str]], records: list[Record], rng: random.Random
) -> list[Question]:
    """Ask for every answer, and hold out the same share of each attribute."""
    held_out: set[tuple[str, str]] = set()
    for attribute in sorted({attribute for _, attribute, _ in answers}):
        asked = [name for name, key, _ in answers if key == attribute]
        rng.shuffle(asked)
        held_out |= {(name, attribute) for name in asked[round(len(asked) * TRAINED_SHARE) :]}
    questions = []
    for name, attribute, answer in answers:
        own = [record for record in records if record.subject == name]
        questions.append(
            Question(
                subject=name,
                attribute=attribute,
                prompt=QUESTIONS[attribute].format(name=name),
                answer=answer,
                records=tuple(record.id for record in own),
                verbatim=all(answer in record.text for record in own),
                held_out=(name, attribute) in held_out,
            )
        )
    return questions
