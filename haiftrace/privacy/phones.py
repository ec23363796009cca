"""Phone numbers: of unmistakable form, valid in a region, or said to be such.

libphonenumber knows which numbers a country assigns, and so not the reserved ones of films and
tests (555-01xx), which stand in demos and in model answers alike: forms of our own serve there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import phonenumbers
from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import isbn

from haiftrace.privacy.context import is_followed, is_named
from haiftrace.privacy.dates import find_dates

Span = tuple[int, int]

DEFAULT_REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "BR", "PT", "NL", "BE", "CH", "AT", "PL", "SE", "MX"),
    *("CN", "JP", "IN", "KR", "PH", "AU"),
)
"""Regions whose national numbers are known without being asked for."""

_LEAST, _MOST = 7, 15  # digits (ITU-T E.164)
_NAMED_NEAR = 48

_FORMS = (
    # +44 20 7946 0958, +1 (555) 123-4501, +49 (0)171 1234567
    re.compile(
        r"(?<![A-Za-z\d_+])(?:\+|(?<!\d[ .\-/])00)[1-9]\d{0,2}[ .\-/\n]{0,2}"
        r"(?:\(\d{1,4}\)[ .-]{0,2})?"
        r"\d{1,5}(?:[ .\-/\n]?\d{2,7}){1,5}(?!\d)"
    ),
    # (555) 123-4501, 1-555-123-4501, 555.123.4501, 415/555-0123
    re.compile(
        r"(?<![\d.\-/])(?:\+?1[ .\-\n])?(?:\(\d{3}\)[ \-\n]?|\d{3}[ .\-/\n])\d{3}[ .\-\n]"
        r"\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\d-])"
    ),
    # 138-0013-8000, 13800138000
    re.compile(r"(?<![A-Za-z\d.-])(?:86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d-])"),
    # 020 7946 0958, 010-62345678
    re.compile(r"(?<![\d.-])\(?0\d{2,4}\)?[ -]\d{3,4}(?:[ -]\d{3,4}|\d{4})(?![\d-])"),
    # 400-820-8820
    re.compile(r"(?<![\d.-])[48]00-?\d{3}-?\d{4}(?![\d-])"),
    # 555-0134: the numbers that films and tests use
    re.compile(r"(?<![\d.-])555[ .\-\n]\d{4}(?![\d-])"),
    # 8 (495) 123-45-67
    re.compile(r"(?<![\d.-])8[ \-]?\(\d{3,5}\)[ \n]?\d{1,3}[ \-\n]\d{2}[ \-\n]\d{2}(?![\d-])"),
    # (11) 91234-5678, 11 91234-5678; 98765 43210
    re.compile(r"(?<![\d.-])(?:\(\d{2}\)[ \n]?|\d{2} )9?\d{4}-\d{4}(?![\d-])"),
)
_RUN = re.compile(
    r"(?<![A-Za-z\d_.,+-])(?:\+|\(\+?)?\d+(?:(?:\)[ \n]?|[ .\-/\n]\(?|\()\d+){0,9}"
    r"(?![A-WYZa-wyz\d_-]|[.,]\d)"
)
# What a national number begins with that needs no word: a trunk zero, an area in brackets.
_TRUNK = re.compile(r"[+(]|0[1-9]")
_EXTENSION = re.compile(r",?\s?(?:x|ext\.?|extension|#)\s?\d{1,6}(?!\d)", re.IGNORECASE)
_YEARS = re.compile(r"(?:1[5-9]|2[01])\d\d[-/ \n.](?:1[5-9]|2[01])\d\d")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:([ .\n])\d{3})(?:\1\d{3})*")
_DECIMAL = re.compile(r"(?!0\d)\d{1,3}\.\d{3,}")
_NETWORK = re.compile(r"(?:(?:0|1?[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])(?:\.|$)){4}")
_PHONE_WORD = re.compile(
    r"\b(?:tele)?phone|\btel\b|\btél|\bcall(?:s|ed|ing)?\b|\bmobile|\bcell(?:phone|ular)?\b|\bfax\b"
    r"|whatsapp|\bviber\b|\bsms\b|\bdial|\bring\b|\breach(?:ed|able)?\s(?:\w+\s){0,3}?(?:at|on|by)\b"
    r"|\bcontact\b(?!\s(?:year|number of))"
    r"|(?:'s|\b(?:his|her|my|their|your|our))\s(?:\w+\s)?number\b"
    r"|\b(?:phone|contact|mobile|direct|emergency|daytime|home|work|office)\s(?:number|no\b|line)"
    r"|\bnumber (?:to (?:call|ring)|where)"
    r"|telefon|teléfono|\bfono\b|\bhandy|rufnummer|\bmobil|\bmóvil|\bcelular|\bcellulare|\bportable"
    r"|\bappel|\bjoign|\bllam|\bligu?[ae]|\bchiama|\bruf|\banruf|\berreich|\bzadzwo|\bbel\b|\bring\b"
    r"|\bнабер|\bзвон|телефон|\bтел\b|\bmob\b|\bph\b|फ़ोन|फोन|मोबाइल"
    r"|电话|手机|联系|致电|拨打|号码|传真|座机|電話|携帯|連絡先|전화|휴대폰|연락처|[☎📞📱✆]",
    re.IGNORECASE,
)
_PHONE_BEHIND = re.compile(
    r"\s(?:is|was|ist|est|es|è)\s(?:\w+\s){0,3}?(?:phone|mobile|cell|number|telefon|handy|tel)"
    r"|\s\((?:tel|phone|mobile|cell|home|work|office|fax)\b|\s(?:телефон|тел\.)",
    re.IGNORECASE,
)
_OTHER_WORD = re.compile(
    r"(?:\b(?:ISBN|ISSN|DOI|ISO|RFC|PMID|orders?|invoice|ticket|case|pages?|pp|version|build|release"
    r"|serial|SKU|tracking|records?|residents|years?|article|batch|zip|PLZ|IMEI|IP|port|patent|part|lottery|lotto"
    r"|Bestellnummer|Rechnung|commande|facture|pedido|factura|ordine|fattura|isbn)\b"
    r"|订单号?|编号|注文番号)"
    r"(?:\s(?:number|no|nr|num|code|id))?[\s.:#°=]{0,4}\Z",
    re.IGNORECASE,
)


def find_phones(text: str, regions: Sequence[str] = DEFAULT_REGIONS) -> Iterator[Span]:
    """Spans [start, end) of phone numbers in a folded text, with their extensions.

    Args:
        text: with a single sign between digits; see `fold_numbers`.
        regions: ISO 3166 codes of the countries whose national numbers count.
    """
    for start, end in _numbers(text, regions):
        extension = _EXTENSION.match(text, end)
        yield start, extension.end() if extension else end


def _numbers(text: str, regions: Sequence[str]) -> Iterator[Span]:
    dated = bytearray(len(text))
    for date in find_dates(text):
        dated[date.start : date.end] = b"\1" * (date.end - date.start)
    for form in _FORMS:
        for match in form.finditer(text):
            if _LEAST <= _digits(match[0]) <= _MOST + 2 and _is_free(text, *match.span(), dated):
                yield match.span()
    for match in _RUN.finditer(text):
        if not _digits(match[0]) >= _LEAST:
            continue
        start, end = match.span()
        if not _is_free(text, start, end, dated):
            continue
        named = is_named(text, start, _PHONE_WORD, _NAMED_NEAR) or is_followed(
            text, end, _PHONE_BEHIND, 40
        )
        if named and _digits(match[0]) <= _MOST:
            yield start, end
        elif named or _TRUNK.match(match[0]):
            for offset, size in _in_regions(match[0].replace("\n", " "), tuple(regions)):
                yield start + offset, start + offset + size


def _is_free(text: str, start: int, end: int, dated: bytearray) -> bool:
    """Whether nothing says that a number of a phone's form is something else."""
    return not any(dated[start:end]) and not _is_other(text, start, end)


def _is_other(text: str, start: int, end: int) -> bool:
    signs = text[start:end]
    is_network = _NETWORK.fullmatch(signs) and not is_named(text, start, _PHONE_WORD, 16)
    if _YEARS.fullmatch(signs) or is_network:
        return True
    is_amount = _DECIMAL.fullmatch(signs) or _THOUSANDS.fullmatch(signs)
    if is_amount and not is_named(text, start, _PHONE_WORD):
        return True
    if signs.startswith(("978", "979")) and isbn.is_valid(signs):
        return True
    return _OTHER_WORD.search(text, max(0, start - 32), start) is not None


@lru_cache(maxsize=4096)
def _in_regions(run: str, regions: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Places and lengths of the valid numbers, grouped as their country groups them, in a run."""
    if run.startswith("+"):
        regions = regions[:1] or ("ZZ",)
    is_grouped = not run.lstrip("+(").isdigit()
    for region in regions:
        try:
            matcher = PhoneNumberMatcher(run, region, Leniency.STRICT_GROUPING, max_tries=8)
            numbers = tuple((m.start, m.end - m.start) for m in matcher)
        except phonenumbers.NumberParseException:
            continue
        if numbers and (is_grouped or run.startswith("+")):
            return numbers
    return ()


def _digits(text: str) -> int:
    return sum(sign.isdigit() for sign in text)
