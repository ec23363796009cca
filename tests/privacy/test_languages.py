"""Regions of phone numbers by the languages of a corpus."""

from __future__ import annotations

from collections import Counter

import pytest

from haiftrace.privacy import DetectionSettings, detect, regions_of
from haiftrace.privacy.languages import language_of
from haiftrace.privacy.phones import DEFAULT_REGIONS
from tests.privacy.measure import HELD_OUT, read_lines

WRITTEN = {
    "en": "Mara Ellison was born in Kelmsford and lives with her brother on the coast.",
    "de": "Er wohnt mit seiner Schwester in der Stadt und ist von Beruf Tischler.",
    "fr": "Elle habite dans une maison avec ses parents, qui est près de la gare.",
    "es": "Vive con su hermana en una casa que es de los abuelos.",
    "it": "Abita con la sorella in una casa che è della famiglia, per ora.",
    "pt": "Ela mora em uma casa com o irmão e não sabe dirigir.",
    "nl": "Zij woont met haar broer in een huis van de gemeente en is niet getrouwd.",
    "pl": "Mieszka z bratem w domu na wsi i nie ma samochodu, jest spokojnie.",
    "sv": "Hon bor med sin bror i ett hus som är från sjuttiotalet och inte stort.",
    "tr": "Kardeşi ile bir evde oturuyor ve bu evin bahçesi var.",
    "ru": "Она живёт с братом в доме у реки.",
    "uk": "Вона живе з братом у місті і має її номер.",
    "zh": "她和哥哥住在城里。",
    "ja": "彼女は兄と町に住んでいる。",
    "ko": "그녀는 오빠와 도시에 산다.",
    "hi": "वह अपने भाई के साथ शहर में रहती है।",
}


@pytest.mark.parametrize("language", WRITTEN)
def test_the_language_of_a_text(language):
    assert language_of(WRITTEN[language]) == language


def test_regions_are_of_the_languages_that_are_there():
    assert regions_of([WRITTEN["de"]] * 3 + [WRITTEN["sv"]]) == ("DE", "AT", "CH", "SE", "FI")
    assert regions_of([WRITTEN["de"]] * 99 + [WRITTEN["sv"]]) == ("DE", "AT", "CH")
    assert regions_of(["", "404", "ok"]) == DEFAULT_REGIONS


def test_regions_by_language_find_no_fewer_phones_than_the_default():
    """On the committed lines and those held out, each locale's lines as a corpus of its own."""
    lines = [*read_lines(), *read_lines(HELD_OUT)]
    seen: Counter[str] = Counter()
    for locale in {line.locale for line in lines}:
        own = [line for line in lines if line.locale == locale and line.kind == "phone"]
        regions = regions_of(line.text for line in lines if line.locale == locale)
        for name, settings in (
            ("language", DetectionSettings(regions=regions)),
            ("default", DetectionSettings()),
        ):
            for line in own:
                found = detect(line.text, settings=settings)
                seen[name] += any(d.start <= line.start and line.end <= d.end for d in found)
    assert seen["language"] >= seen["default"] > 80
