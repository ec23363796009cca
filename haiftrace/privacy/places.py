"""Postal addresses: a street with its house number, and what follows it on the envelope."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STREET = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Pl|Square|Sq"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Trail|Crescent|Close|Row|Alley|Plaza|Loop"
    "|Path|Walk|Grove|Gardens|Mews|Turnpike|Mall|Mount|Ridge|Station|Junction|Crossing|Heights"
    "|Point|Green|Hill|Quay|Wharf"
)
_ENGLISH = re.compile(
    r"(?<![\w.-])\d{1,6}[A-Za-z]?(?:[/-]\d{1,5})?,?\s{1,2}"
    r"(?:(?:North|South|East|West|[NSEW]\.?)\s)?"
    rf"(?:[A-Z][\w'’.-]{{0,24}}\s){{1,4}}(?:{_STREET})\b\.?"
    r"(?:,?\s(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|#)\.?\s?#?[\w-]{1,8})?"
    # the town, then its state and code
    r"(?:(?:,\s?|\n)[A-Z](?:[^\W\d_]|['’-]){1,24}(?:\s[A-Z](?:[^\W\d_]|['’-]){1,24}){0,3}\b"
    r"(?:,?\s[A-Z]{2}\s\d{5}(?:-\d{4})?|,?\s[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2})?)?"
)

# Characters that stand between a person and a place, and so begin the address.
_HAN = r"[\u4e00-\u9fff]"
_NAME = r"(?:(?![住在于位是址为至到寄，。])[\u4e00-\u9fff])"
_CHINESE = re.compile(
    rf"(?:{_NAME}{{2,8}}?(?:省|自治区|特别行政区))?"
    rf"(?:{_NAME}{{2,8}}?(?:市|自治州|地区|盟))?"
    rf"(?:{_NAME}{{1,8}}?(?:区|县|镇|乡|旗))?"
    rf"{_NAME}{{1,8}}?(?:大道|大街|路|街|巷|弄|胡同|道)"
    rf"{_HAN}{{0,2}}\d{{1,5}}(?:-\d{{1,4}})?(?:号|弄|座|[a-zA-Z]座)?"
    r"(?:[\u4e00-\u9fff]{0,6}?\d{1,5}(?:号楼|栋|幢|楼|层|单元|室|号)){0,4}"
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of addresses, English and Chinese."""
    for pattern in (_ENGLISH, _CHINESE):
        for match in pattern.finditer(text):
            yield match.span()
