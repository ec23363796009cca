"""Accounts that hold money: payment cards, IBANs, wallets; each has a checksum."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stdnum import bitcoin, iban, luhn, numdb

from haiftrace.privacy.context import is_named

Span = tuple[int, int]

_GAP = r"[ .\-/\n]?"
_CARD = re.compile(rf"(?<![\d])(?<!\d\.)\d(?:{_GAP}\d){{11,18}}(?!\d|[.,]\d)")
# Issuers by their first digits (ISO 7812): Visa, Mastercard, American Express, Diners, JCB,
# Discover, UnionPay, Maestro, Mir, RuPay, Troy, Elo.
_ISSUER = re.compile(r"(?:4|5[0-8]|2[2-7]|3\d|2131|1800|6\d|8[12]|9792)\d+")
_CARD_WORD = re.compile(
    r"\b(?:card|maestro|debit|credit|karte|kreditkarte|carte|tarjeta|cartão|carta)\b|卡|カード|카드",
    re.IGNORECASE,
)
_OTHER_WORD = re.compile(
    r"\b(?:IMEI|IMSI|ICCID|EAN|GTIN|tracking)\b(?:\s(?:number|no|code))?[\s.:#]{0,3}\Z",
    re.IGNORECASE,
)
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}{_GAP}\d{_GAP}\d(?:{_GAP}[A-Za-z0-9]){{11,30}}")
_LEGACY = re.compile(r"(?<![A-Za-z0-9])[13][1-9A-HJ-NP-Za-km-z]{25,34}(?![A-Za-z0-9])")
_BECH32 = re.compile(
    r"(?<![A-Za-z0-9])(?:bc1[02-9ac-hj-np-z]{11,87}|BC1[02-9AC-HJ-NP-Z]{11,87})(?![A-Za-z0-9])"
)
_ETHEREUM = re.compile(r"(?<![A-Za-z0-9])0x[0-9a-fA-F]{40}(?![A-Za-z0-9])")


def find_cards(text: str) -> Iterator[Span]:
    """Spans [start, end) of payment cards' numbers in a folded text; see `fold_numbers`."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        other = _OTHER_WORD.search(text, max(0, match.start() - 24), match.start())
        # Twelve digits are few: a word must say that they are a card's.
        is_long = len(digits) > 12 or is_named(text, match.start(), _CARD_WORD)
        if is_card(digits) and is_long and not other:
            yield match.span()


def find_ibans(text: str) -> Iterator[Span]:
    """Spans [start, end) of international bank account numbers in a folded text."""
    for match in _IBAN.finditer(text):
        ends = [match.start() + i + 1 for i, sign in enumerate(match[0]) if sign.isalnum()]
        kept = "".join(sign for sign in match[0] if sign.isalnum()).upper()
        length = _iban_length(kept[:2])
        if length and len(kept) >= length:
            end = ends[length - 1]
            stands_alone = not text[end : end + 1].isalnum() or text[end : end + 1] > "\x7f"
            if stands_alone and is_iban(kept[:length]):
                yield match.start(), end


def find_wallets(text: str) -> Iterator[Span]:
    """Spans [start, end) of Bitcoin and Ethereum addresses in a folded text."""
    for pattern in (_LEGACY, _BECH32):
        for match in pattern.finditer(text):
            if bitcoin.is_valid(match[0].lower() if pattern is _BECH32 else match[0]):
                yield match.span()
    for match in _ETHEREUM.finditer(text):
        if len(set(match[0][2:].lower())) > 4:
            yield match.span()


def is_card(digits: str) -> bool:
    """A payment card's number: 12 to 19 digits, a known beginning, Luhn's checksum (ISO 7812)."""
    if not _ISSUER.fullmatch(digits) or len(set(digits)) < 2:
        return False
    return luhn.is_valid(digits)


def is_iban(text: str) -> bool:
    """An international bank account number: its country's form, and 97's remainder is 1."""
    return iban.is_valid(text, check_country=False)


def _iban_length(country: str) -> int:
    """How many characters a country's IBAN has; 0 where it has none."""
    structure = numdb.get("iban").info(country)[0][1].get("bban", "")
    sizes = [int(size) for size in re.findall(r"\d+", structure)]
    return 4 + sum(sizes) if sizes else 0
