"""Checksums of numbers that carry them, so that a detector need not guess."""

from __future__ import annotations

import re

# Length of an IBAN by country (ISO 13616 registry); the countries whose banks use one most.
_IBAN_LENGTHS = {
    **{"AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24},
    **{"DE": 22, "DK": 18, "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GI": 23, "GR": 27},
    **{"HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "KW": 30, "LB": 28, "LI": 21},
    **{"LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25},
    **{"QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26},
    **{"UA": 29},
}
_CARD = re.compile(r"(?:4|5[1-5]|2[2-7]|3[47]|3[068]|35|6[0245])\d+")
_CHINESE_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHINESE_SIGNS = "10X98765432"


def is_card(digits: str) -> bool:
    """A payment card's number: 13 to 19 digits, a known beginning, Luhn's checksum (ISO 7812)."""
    if not 13 <= len(digits) <= 19 or not _CARD.fullmatch(digits) or len(set(digits)) < 2:
        return False
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """An international bank account number: its country's length, and 97's remainder is 1."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    turned = text[4:] + text[:4]
    return int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1


def iban_length(country: str) -> int:
    """How many characters a country's IBAN has; 0 where it has none."""
    return _IBAN_LENGTHS.get(country, 0)


def is_chinese_id(text: str) -> bool:
    """A resident identity number of China: a date of birth in it, ISO 7064's MOD 11-2."""
    year, month, day = int(text[6:10]), int(text[10:12]), int(text[12:14])
    if not (1850 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31):
        return False
    total = sum(int(d) * w for d, w in zip(text[:17], _CHINESE_WEIGHTS, strict=True))
    return text[17].upper() == _CHINESE_SIGNS[total % 11]


def is_us_ssn(digits: str) -> bool:
    """A number that the United States' Social Security may have given."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
