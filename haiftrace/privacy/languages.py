"""Which countries' phone numbers a corpus may hold, by the languages that it is written in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from haiftrace.privacy.phones import DEFAULT_REGIONS

# Where a language is spoken (ISO 3166), the countries of most speakers first.
_REGIONS = {
    "en": ("US", "GB", "CA", "AU", "IN", "PH", "IE", "NZ", "ZA", "SG"),
    "de": ("DE", "AT", "CH"),
    "fr": ("FR", "BE", "CH", "CA", "LU"),
    "es": ("ES", "MX", "AR", "CO", "CL", "PE", "US"),
    "it": ("IT", "CH"),
    "pt": ("BR", "PT"),
    "nl": ("NL", "BE"),
    "pl": ("PL",),
    "sv": ("SE", "FI"),
    "da": ("DK",),
    "no": ("NO",),
    "fi": ("FI",),
    "cs": ("CZ", "SK"),
    "tr": ("TR",),
    "ru": ("RU", "KZ", "BY"),
    "uk": ("UA",),
    "el": ("GR", "CY"),
    "he": ("IL",),
    "ar": ("SA", "AE", "EG", "MA"),
    "hi": ("IN",),
    "th": ("TH",),
    "ko": ("KR",),
    "ja": ("JP",),
    "zh": ("CN", "TW", "HK", "SG"),
}
# Frequent words that few of the other languages have.
_WORDS = {
    "en": "the and of is was with for that her his lives born works",
    "de": "der die das und ist nicht ein eine mit von wohnt geboren auf ich",
    "fr": "le les des est une dans et du pour avec habite née qui sur",
    "es": "el los las una es con por para del vive nació que y su",
    "it": "il gli della di è con per che una nel nato abita sono",
    "pt": "o os uma em com não do da dos mora nasceu que é seu",
    "nl": "de het een van en is niet met voor woont geboren op zijn",
    "pl": "i w na nie jest się do z urodził mieszka oraz że",
    "sv": "och är att det en på som inte av bor född med",
    "da": "og er at det en på som ikke af bor født med",
    "no": "og er at det en på som ikke av bor født med",
    "fi": "ja on ei se että hän asuu joka oli ovat",
    "cs": "a je se na že v který bydlí narodil není",
    "tr": "ve bir bu için ile doğdu yaşıyor olan de değil",
}
_STOPWORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),  # before Chinese: it has both
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("uk", re.compile("[іїєґ]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_WORDS = 2
_LEAST_SIGNS = 2
_LEAST_SHARE = 0.02
_MOST_CHARACTERS = 2000


def language_of(text: str) -> str | None:
    """The language of a text (ISO 639-1) by script and frequent words; None where none shows."""
    text = text[:_MOST_CHARACTERS].lower()
    for language, signs in _SCRIPTS:
        if len(signs.findall(text)) >= _LEAST_SIGNS:
            return language
    words = Counter(_WORD.findall(text))
    hits = {
        language: sum(words[word] for word in stopwords)
        for language, stopwords in _STOPWORDS.items()
    }
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] >= _LEAST_WORDS else None


def regions_of(texts: Iterable[str]) -> tuple[str, ...]:
    """ISO 3166 codes of the countries that the texts' languages are of, the most frequent first.

    A language counts that at least one text of fifty is in. Where none shows, the default regions.
    """
    languages = Counter(filter(None, map(language_of, texts)))
    least = _LEAST_SHARE * languages.total()
    listed = [
        region
        for language, count in languages.most_common()
        if count >= least
        for region in _REGIONS[language]
    ]
    return tuple(dict.fromkeys(listed)) or DEFAULT_REGIONS
