"""Postal addresses: a street with its house number, and what follows it on the envelope."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STREET = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Trail|Crescent|Close|Row|Alley|Plaza|Loop"
    "|Path|Walk|Grove|Gardens|Mews|Turnpike|Mall|Mount|Ridge|Station|Junction|Crossing|Heights"
    "|Point|Green|Hill|Quay|Wharf|Marg|Nagar|Chowk|Salai|Bagh"
    "|Way(?! (?:better|more|too|less|back|down|up|over)\\b)"
)
_STREET += "|STREET|AVENUE|AVE|ROAD|RD|BOULEVARD|BLVD|LANE|DRIVE|COURT|PLACE|SQUARE|TERRACE|HIGHWAY"
_UNIT = r"(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|#)"
_UPPER = r"[A-ZÀ-ÖØ-ÞĄĆĘŁŃŚŹŻŠŽČŘ]"
_TOWN = rf"{_UPPER}(?:[^\W\d_]|['.-]){{1,24}}(?:[ -]{_UPPER}(?:[^\W\d_]|['.-]){{1,24}}){{0,3}}\b"
_ENGLISH = re.compile(
    rf"(?:\b{_UNIT}\.?\s?[\w-]{{1,5}},?\s)?"
    r"(?<![\w.])(?<!\w-)\d{1,6}[A-Za-z]?(?:[/-]\d{1,5})?,?\s{1,2}"
    r"(?:(?:North|South|East|West|[NSEW]\.?)\s)?"
    rf"(?:[A-Z][\w'’.-]{{0,24}}\s{{1,2}}){{1,4}}(?:{_STREET})\b\.?"
    rf"(?:,?\s{_UNIT}\.?\s?#?[\w-]{{1,8}})?"
    # the town, then its state and code
    rf"(?:(?:,\s?|\n){_TOWN})?(?:,?\s[A-Z]{{2}}\s\d{{5}}(?:-\d{{4}})?"
    r"|,?\s[A-Z]{1,2}\d[A-Z\d]?[\s._-]{1,2}\d[A-Z]{2}|(?:,?\s|\s?-\s?)\d{3}\s?\d{3})?"
)
_BOX = re.compile(r"\bP\.?\s?O\.?\s?Box\s\d{1,6}(?:,\s[A-Z]\w+(?:,?\s[A-Z]{2}\s\d{5})?)?")

_CODE_TOWN = rf"(?:(?:,\s?|\s?[-–]\s?|\n|\s)(?:[A-Z]{{1,2}}-)?\d{{4,5}}(?:[-.]\d{{3}})?\s{_TOWN})"
_HOUSE = r"\d{1,4}(?:\s?[a-zA-Z]\b)?(?:\s?[-/]\s?\d{1,4}\b)?"
_GERMANIC = re.compile(
    rf"\b(?:{_UPPER}[\w'.-]*?(?:straße|strasse|str\.|weg|platz|allee|gasse|damm|ufer|chaussee|steig"
    r"|graben|promenade|ring|straat|laan|plein|gracht|kade|dreef|gatan|vägen|gade|vej)"
    rf"|{_UPPER}[\w-]+(?:\s{_UPPER}[\w-]+)?\s(?:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Damm))"
    rf"\s{{1,2}}{_HOUSE}(?!\.?\d)(?:{_CODE_TOWN})?"
    # "Am Markt 5" is an address where its town follows
    rf"|\b(?:Am|An|Auf|Im|In|Zum|Zur|Unter|Hinter|Vor)(?:\s(?:der|dem|den))?(?:\s{_UPPER}[\w-]+){{1,3}}"
    rf"\s{{1,2}}{_HOUSE}(?:{_CODE_TOWN})"
)
_LINK = (
    r"(?:de|du|des|del|della|delle|dello|dei|degli|da|das|do|dos|di|la|le|les|los|las|el|y|e|et)"
)
_NAMED = rf"(?:(?:{_LINK}\s|d'|l'|dell'|de l')*(?:{_UPPER}|\d{{1,2}}\s)[\w'.-]*)"
_FRENCH = re.compile(
    r"(?<![\w.])(?<!\w-)\d{1,4}(?:\s?(?:bis|ter|quater)|[A-D])?,?\s{1,2}"
    r"(?:rue|avenue|av\.|boulevard|bd|place|allée|chemin|impasse|quai|cours|route|square|passage"
    rf"|sentier|faubourg)\s(?:{_NAMED}(?:[\s-]{_NAMED}){{0,4}})(?:{_CODE_TOWN})?",
    re.IGNORECASE,
)
_ROMANCE = re.compile(
    r"(?<!\w)(?:Calle|C/|Avenida|Avda?\.|Av\.|Plaza|Pza\.|Paseo|Carrera|Camino|Ronda|Travesía"
    r"|Carretera|Glorieta|Via|Viale|Piazza|Piazzale|Corso|Largo|Vicolo|Strada|Rua|R\.|Travessa|Alameda"
    r"|Praça|Rodovia|Estrada|ul\.|ulica|al\.)"
    rf"\s?{_NAMED}(?:\s{_NAMED}){{0,5}},?\s{{1,2}}(?:n[ºo°.]{1, 2}\s?)?\d{{1,5}}[A-Za-z]?\b"
    r"(?:,\s\d{1,2}[oaº°ª]\s?[A-Z]?\b|,?\s(?:apto|ap|piso|int)\.?\s\d{1,4})?"
    rf"(?:{_CODE_TOWN}|(?:,\s|\s?-\s?){_TOWN})?"
)

# улица Пушкина, д. 10, кв. 5; Невский проспект, 28; вул. Хрещатик, 22
_CYRILLIC_UPPER = r"[А-ЯЁІЇЄҐ]"
_CYRILLIC_NAME = (
    rf"(?:\d{{1,3}}-(?:я|й|го|ая|ый)\s)?{_CYRILLIC_UPPER}[\w.-]*"
    rf"(?:\s{_CYRILLIC_UPPER}[\w.-]*){{0,3}}"
)
_CYRILLIC_STREET = (
    r"(?:(?:улиц|вулиц|площад|набережн|алле)[а-яії]{1,3}"
    r"|(?:проспект|переул|бульвар|проезд|шоссе|провулк)[а-яії]{0,3}"
    r"|ул\.|вул\.|просп\.|пр-?т\.?|пер\.|б-р|бул\.|наб\.|пл\.|ш\.)"
)
_CYRILLIC_HOUSE = r"\d{1,4}(?:\s?[а-яА-Я]\b|/\d{1,3})?(?!\.?\d)"
_CYRILLIC = re.compile(
    rf"(?<!\w)(?:{_CYRILLIC_STREET}\s?{_CYRILLIC_NAME}|{_CYRILLIC_NAME}\s{_CYRILLIC_STREET})"
    # without a comma or a word for the house, "на площади Ленина 7 ноября" is no address
    rf"(?:,?\s(?:д(?:ом|ома|\.)|буд\.|№)\s?{_CYRILLIC_HOUSE}|,\s{_CYRILLIC_HOUSE}"
    rf"|\s{_CYRILLIC_HOUSE}(?!\s[а-яё]{{3}}))"
    r"(?:,?\s(?:к(?:орп)?|стр|кв|оф)\.?\s?\d{1,4}"
    r"|,?\s(?:корпус|строение|квартира|офис)\s\d{1,4}){0,3}"
)

# Characters that stand between a person and a place, and so begin the address.
_HAN = r"[\u4e00-\u9fff]"
_NAME = r"(?:(?![住在于位是址为至到寄，。])[\u4e00-\u9fff])"
_CHINESE = re.compile(
    rf"(?:{_NAME}{{2,8}}?(?:省|自治区|特别行政区))?"
    rf"(?:{_NAME}{{2,8}}?(?:市|自治州|地区|盟))?"
    rf"(?:{_NAME}{{1,8}}?(?:区|县|镇|乡|旗)\n?)?"
    rf"{_NAME}{{1,8}}?(?:大道|大街|路|街|巷|弄|胡同|道)"
    rf"{_HAN}{{0,2}}\d{{1,5}}(?:-\d{{1,4}})?(?:号|弄|座|[a-zA-Z]座)?"
    r"(?:[\u4e00-\u9fff]{0,6}?\d{1,5}(?:号楼|栋|幢|楼|层|单元|室|号)){0,4}"
)
_JAPANESE = re.compile(
    r"(?:〒?\d{3}-\d{4}\s?)?"
    r"(?:東京都|北海道|京都府|大阪府|[\u4e00-\u9fff]{2,3}県|[\u4e00-\u9fff]{1,4}市(?=[\u4e00-\u9fff]{1,4}区))"
    r"[\u4e00-\u9fff\u3041-\u30ffヶケ]{1,24}?"
    r"\d{1,4}(?:(?:丁目|番地|番|号|の|[-.\n]){1,2}\d{1,4}){0,3}(?:丁目|番地|番|号室|号)?"
)
_KOREAN = re.compile(
    r"(?:[가-힣]{1,7}(?:시|도)\s)?[가-힣]{1,6}(?:구|군|시)\s(?:[가-힣]{1,8}\s)?[가-힣\d]{1,10}(?:로|길)\s?\d{1,4}"
    r"(?:-\d{1,4})?"
)
_PATTERNS = (_ENGLISH, _BOX, _GERMANIC, _FRENCH, _ROMANCE, _CYRILLIC, _CHINESE, _JAPANESE, _KOREAN)


# A label says that what follows is an address, whatever form it has, if a number is in it.
_LABELLED = re.compile(
    r"(?:\b(?:address|anschrift|adresse|dirección|domicilio|indirizzo|endereço|adres|adress"
    r"|wohnhaft|residence)|地址|住址|住所|주소)\s?[:：]\s{0,2}"
    r"(?P<value>(?=[^\n]{0,80}\d|[^\n]{3,60}\n[^\n]{0,40}\d)[^\n:：;|]{4,100}?"
    r"(?:\n(?![^\n]{0,40}[:：@])[^\W_][^\n:：;|]{1,60}){0,3})(?=\.(?-i:\s+[A-Z]\w*\s[a-z]|\s*\Z)|。|\n|\Z|;|\||[\"<)])",
    re.IGNORECASE,
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of addresses in a folded text, of the languages whose forms are known."""
    for match in _LABELLED.finditer(text):
        yield match.span("value")
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            yield match.span()
