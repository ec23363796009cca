"""Virtual subjects: people who do not exist, with names and private values like real ones.

Names, streets and towns come from Faker (extra "bench"); every digit and the e-mail addresses come
from Python's own generator, whose sequence is fixed: another version of Faker may give other names,
never another date or phone. English phones are of the range kept for fiction (555-0100 to
555-0199), Chinese ones begin with 12, where no mobile network is; e-mail domains are those kept
for examples.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.bench.synthetic.facts import FACTS
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from faker import Faker

LOCALES = ("en_US", "zh_CN")

ATTRIBUTES = ("birth", "email", "phone", "address")
"""What PII-E's records state about a subject."""

BORN_FROM = datetime.date(1940, 1, 1)
BORN_TO = datetime.date(2004, 12, 31)

_DOMAINS = ("example.com", "example.net", "example.org")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_TRAITS = (
    "amber", "blue", "brave", "calm", "clever", "copper", "crimson", "daring", "eager", "fancy",
    "gentle", "golden", "green", "happy", "hidden", "icy", "jolly", "keen", "lucky", "mellow",
    "nimble", "proud", "quiet", "rapid", "royal", "rusty", "silver", "sunny", "swift", "tidy",
    "velvet", "wild",
)  # fmt: skip
_THINGS = (
    "anchor", "badger", "beacon", "canyon", "comet", "dolphin", "ember", "falcon", "forest",
    "garden", "glacier", "harbor", "heron", "island", "kettle", "lantern", "maple", "meadow",
    "nebula", "otter", "panda", "pepper", "quartz", "raven", "river", "saddle", "sparrow",
    "thunder", "tulip", "walnut", "willow", "zephyr",
)  # fmt: skip
_ROADS_ZH = (
    "人民", "中山", "解放", "建设", "和平", "文化", "胜利", "新华", "光明", "友谊", "幸福", "长江",
    "黄河", "学府", "朝阳", "红旗", "青年", "团结", "迎宾", "滨河", "花园", "体育", "科技", "兴业",
)  # fmt: skip
_MAX_ATTEMPTS = 2000


@dataclass(frozen=True)
class Subject:
    """A person.

    Attributes:
        id: "s000", "s001", ...
        name: the full name, given name first in English, family name first in Chinese.
        values: text by attribute (`ATTRIBUTES`), one line each.
    """

    id: str
    name: str
    values: dict[str, str]


def make_subjects(locale: str, count: int, seed: int, apart: Collection[str] = ()) -> list[Subject]:
    """Sample people with unique names and values.

    English first and last names are unique among all first and last names, Chinese full names
    among full names; no name is within another; none is a month's or a state's name.

    Args:
        apart: names of others, of which no name or word is used again.

    Raises:
        UsageError: Faker is missing or has too few names, or does not know the locale.
    """
    if locale not in LOCALES:
        raise UsageError(
            f"There are no subjects of locale '{locale}'.", f"Choose {' or '.join(LOCALES)}."
        )
    faker = _faker(locale)
    faker.seed_instance(seed)
    sample_names = _english_names if locale == "en_US" else _chinese_names
    names = sample_names(faker, count, apart)
    rng = random.Random(f"{seed}:values:{locale}")
    sample_values = _english_values if locale == "en_US" else _chinese_values
    taken: set[str] = set()
    return [
        Subject(f"s{number:03d}", name, sample_values(faker, rng, taken))
        for number, name in enumerate(names)
    ]


def _faker(locale: str) -> Faker:
    try:
        from faker import Faker
    except ImportError:
        raise UsageError(
            "The virtual subjects need the package Faker, which is not installed.",
            "Install it: pip install 'haiftrace[bench]'",
        ) from None
    return Faker(locale)


def _fresh(sample: Callable[[], str], taken: set[str]) -> str:
    """Sample until the result is new, and take it."""
    for _ in range(_MAX_ATTEMPTS):
        text = sample()
        if text and text not in taken:
            taken.add(text)
            return text
    raise UsageError(
        f"There are no more than about {len(taken)} different names.",
        "Ask for fewer subjects with --subjects.",
    )


def _english_names(faker: Faker, count: int, apart: Collection[str]) -> list[str]:
    """First and last names of one set without repetition, fit for records that hide an answer."""
    forbidden = set(_MONTHS)
    for state in FACTS["en_US"].landmarks.values():
        forbidden.update(state.split())
    taken = {*forbidden, *(word.removesuffix("s") for word in forbidden)}
    taken.update(word for name in apart for word in name.split())
    names = []
    for _ in range(count):
        first = _fresh(lambda: str(faker.first_name()), taken)
        names.append(f"{first} {_fresh(lambda: str(faker.last_name()), taken)}")
    return names


def _chinese_names(faker: Faker, count: int, apart: Collection[str]) -> list[str]:
    """Family and given name; none is the beginning of another, or a search would find both."""
    names = list(apart)

    def sample() -> str:
        name = f"{faker.last_name()}{faker.first_name()}"
        alone = not any(name.startswith(other) or other.startswith(name) for other in names)
        return name if len(name) >= 2 and alone else ""

    taken: set[str] = set()
    for _ in range(count):
        names.append(_fresh(sample, taken))
    return names[len(apart) :]


def _born(rng: random.Random) -> datetime.date:
    days = (BORN_TO - BORN_FROM).days
    return BORN_FROM + datetime.timedelta(days=rng.randrange(days + 1))


def _email(rng: random.Random) -> str:
    word = f"{rng.choice(_TRAITS)}{rng.choice(_THINGS)}"
    return f"{word}{rng.randrange(10, 100)}@{rng.choice(_DOMAINS)}"


def _english_values(faker: Faker, rng: random.Random, taken: set[str]) -> dict[str, str]:
    born = _born(rng)
    # The local name of the month would depend on the machine, so strftime is not for this.
    birth = f"{_MONTHS[born.month - 1]} {born.day}, {born.year}"

    def phone() -> str:
        return f"{rng.randrange(201, 990)}-555-01{rng.randrange(100):02d}"

    number = rng.randrange(1, 1000)

    def address() -> str:
        state = faker.state_abbr(include_territories=False, include_freely_associated_states=False)
        return " ".join(f"{number} {faker.street_name()}, {faker.city()}, {state}".split())

    return {
        "birth": birth,
        "email": _fresh(lambda: _email(rng), taken),
        "phone": _fresh(phone, taken),
        "address": _fresh(address, taken),
    }


def _chinese_values(faker: Faker, rng: random.Random, taken: set[str]) -> dict[str, str]:
    born = _born(rng)

    def phone() -> str:
        return f"12{rng.randrange(10**9):09d}"

    road = f"{rng.choice(_ROADS_ZH)}路{rng.randrange(1, 1000)}号"

    def address() -> str:
        return f"{str(faker.city_name()).removesuffix('市')}市{road}"

    return {
        "birth": f"{born.year}年{born.month}月{born.day}日",
        "email": _fresh(lambda: _email(rng), taken),
        "phone": _fresh(phone, taken),
        "address": _fresh(address, taken),
    }
