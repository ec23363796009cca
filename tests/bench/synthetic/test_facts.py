"""The common knowledge behind PII-CR: enough of it, well-formed, nothing given away by a name."""

import datetime
import re

import pytest

from haiftrace.bench.synthetic.commonsense import reveals_answer
from haiftrace.bench.synthetic.facts import FACTS

# CheckpointMetrics against an almanac by hand; a slip of the pen in the table would show here.
WELL_KNOWN = {
    "en_US": {
        "Epiphany": "January 6",
        "Saint Patrick's Day": "March 17",
        "Bastille Day": "July 14",
        "Halloween": "October 31",
        "Boxing Day": "December 26",
        "Dealey Plaza": "Texas",
        "Denali": "Alaska",
        "Graceland": "Tennessee",
        "Old Faithful": "Wyoming",
    },
    "zh_CN": {
        "植树节": "3月12日",
        "教师节": "9月10日",
        "国庆节": "10月1日",
        "故宫": "北京市",
        "兵马俑": "陕西省",
    },
}
locales = pytest.mark.parametrize("locale", FACTS)


@locales
def test_there_are_enough(locale):
    assert len(FACTS[locale].festivals) >= 30
    assert len(FACTS[locale].landmarks) >= 40
    assert len(set(FACTS[locale].landmarks.values())) >= 15


@locales
def test_every_festival_has_a_date_of_its_own(locale):
    dates = list(FACTS[locale].festivals.values())
    assert len(set(dates)) == len(dates)
    for date in dates:
        if locale == "en_US":
            datetime.datetime.strptime(f"{date} 2000", "%B %d %Y")
        else:
            month, day = map(int, re.fullmatch(r"(\d+)月(\d+)日", date).groups())
            datetime.date(2000, month, day)


@locales
def test_festivals_stand_in_the_order_of_the_year(locale):
    def day_of_year(date):
        if locale == "en_US":
            return datetime.datetime.strptime(f"{date} 2000", "%B %d %Y").timetuple().tm_yday
        return datetime.date(2000, *map(int, re.findall(r"\d+", date))).timetuple().tm_yday

    days = [day_of_year(date) for date in FACTS[locale].festivals.values()]
    assert days == sorted(days)


@locales
def test_well_known_facts(locale):
    known = FACTS[locale].festivals | FACTS[locale].landmarks
    assert WELL_KNOWN[locale].items() <= known.items()


@locales
def test_no_name_gives_its_own_fact_away(locale):
    for table in (FACTS[locale].festivals, FACTS[locale].landmarks):
        for name, answer in table.items():
            assert not reveals_answer(answer, name, locale)
            if locale == "zh_CN":
                assert not set(name) & set(answer)


def test_english_names_begin_with_words_of_their_own():
    for table in (FACTS["en_US"].festivals, FACTS["en_US"].landmarks):
        assert len({name.split()[0] for name in table}) == len(table)


@locales
def test_no_festival_shows_a_digit(locale):
    assert not [name for name in FACTS[locale].festivals if re.search(r"\d", name)]
