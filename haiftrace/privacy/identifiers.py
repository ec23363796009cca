"""National identity numbers and passports; python-stdnum knows their checksums."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from haiftrace.privacy.context import is_named

Span = tuple[int, int]

_S = r"[ .\-/\n]?"  # what may stand between groups


@dataclass(frozen=True)
class _Scheme:
    """A country's numbers.

    Attributes:
        pattern: their form.
        module: of stdnum, which checks them; none where it has none.
        word: what must stand before a number whose form alone says too little.
    """

    pattern: re.Pattern[str]
    module: str = ""
    word: re.Pattern[str] | None = None


def _scheme(form: str, module: str = "", word: str = "") -> _Scheme:
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?<!\d[ .\-/\n]){form}(?![A-Za-z0-9]|[ .\-/\n]\d)")
    return _Scheme(pattern, module, re.compile(word, re.IGNORECASE) if word else None)


_SSN_WORD = r"\bSSN\b|\bITIN\b|\bTIN\b|social[ -]security|taxpayer"
_ID_WORD = (
    r"\bidentity\b|\bID\b|\bidentifi|\bnational\b|\bpersonal\b|\btax\b|\bsteuer|\bausweis|\bcédula"
    r"|\bcedula|\bdocumento\b|\bDNI\b|\bNIE\b|\bNIF\b|\bRG\b|\bcpf\b|\baadhaar\b|\buid\b|\bPESEL\b"
    r"|\bBSN\b|\bburgerservice|\bpersonnummer|\bSIN\b|\bsocial insurance|\bNHS\b|\bmedicare\b"
    r"|\bTFN\b|\brijksregister|\bregistre national|\bsozialvers|\bcodice fiscale|\bmy number"
    r"|マイナンバー|個人番号|身份证|证件|주민등록|\bsécu|sécurité sociale|\bNIR\b|आधार"
)

_SCHEMES = (
    _scheme(r"\d{6}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])[0-3]\d{4}[\dXx]", "iso7064.mod_11_2"),
    _scheme(
        r"\d{6}[ \-\n]?(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])[0-3]\d[ \-\n]?\d{3}[\dXx]",
        "iso7064.mod_11_2",
    ),
    # United States: social security, and its stand-ins for taxes
    _scheme(r"\d{3}[ .\-\n]\d{2}[ .\-\n]\d{4}", "us.ssn"),
    _scheme(rf"\d{{3}}{_S}\d{{2}}{_S}\d{{4}}", "us.ssn", rf"{_SSN_WORD}|\bID\b"),
    _scheme(r"9\d{2}[\-\n](?:5\d|6[0-5]|7\d|8[0-8]|9[0-2]|9[4-9])[\-\n]\d{4}", "us.itin"),
    _scheme(rf"9\d{{2}}{_S}\d{{2}}{_S}\d{{4}}", "us.itin", _SSN_WORD),
    # United Kingdom
    _scheme(
        r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
        rf"{_S}\d{{2}}{_S}\d{{2}}{_S}\d{{2}}{_S}[A-D]"
    ),
    _scheme(rf"\d{{3}}{_S}\d{{3}}{_S}\d{{4}}", "gb.nhs", r"\bNHS\b"),
    # Europe
    _scheme(
        rf"[12478]{_S}\d{{2}}{_S}\d{{2}}{_S}(?:\d{{2}}|2[AB]){_S}\d{{3}}{_S}\d{{3}}{_S}\d{{2}}",
        "fr.nir",
    ),
    _scheme(rf"\d{{2}}{_S}\d{{3}}{_S}\d{{3}}{_S}\d{{3}}", "de.idnr", _ID_WORD),
    _scheme(rf"\d{{8}}{_S}[A-HJ-NP-TV-Z]", "es.dni"),
    _scheme(rf"[XYZ]{_S}\d{{7}}{_S}[A-HJ-NP-TV-Z]", "es.nie"),
    _scheme(
        rf"[A-Za-z]{{3}}{_S}[A-Za-z]{{3}}{_S}\d{{2}}[A-Za-z]\d{{2}}{_S}[A-Za-z]\d{{3}}[A-Za-z]",
        "it.codicefiscale",
    ),
    _scheme(r"\d{11}", "pl.pesel", _ID_WORD),
    _scheme(r"\d{9}|\d{4}\.\d{2}\.\d{3}", "nl.bsn", _ID_WORD),
    _scheme(r"\d{2}[. ]\d{2}[. ]\d{2}[\-. ]\d{3}[\-. ]\d{2}", "be.nn"),
    _scheme(rf"756{_S}\d{{4}}{_S}\d{{4}}{_S}\d{{2}}", "ch.ssn"),
    _scheme(r"(?:19|20)?\d{6}[\-+]\d{4}", "se.personnummer"),
    _scheme(r"\d{6}[\-+A]\d{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    _scheme(r"\d{6}[ \-]?\d{4}", "dk.cpr", rf"\bCPR\b|{_ID_WORD}"),
    _scheme(r"\d{6} ?\d{5}", "no.fodselsnummer", rf"\bfødsels|{_ID_WORD}"),
    _scheme(r"\d{11}", "tr.tckimlik", rf"\bT\.?C\.? ?kimlik|\bkimlik|{_ID_WORD}"),
    # the Americas
    _scheme(r"\d{3}[. \-\n]\d{3}[. \-\n]\d{3}[\-. \n]\d{2}", "br.cpf"),
    _scheme(r"\d{11}", "br.cpf", rf"\bCPF\b|{_ID_WORD}"),
    _scheme(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d", "mx.curp"),
    _scheme(rf"\d{{3}}{_S}\d{{3}}{_S}\d{{3}}", "ca.sin", r"\bSIN\b|social insurance"),
    _scheme(r"\d{1,2}\.?\d{3}\.?\d{3}-[\dKk]", "cl.rut"),
    _scheme(r"\d{2}\.?\d{3}\.?\d{3}", "ar.dni", r"\bDNI\b|\bdocumento\b"),
    # Asia and the Pacific
    _scheme(r"[2-9]\d{3}[ .\-\n]\d{4}[ .\-\n]\d{4}", "in_.aadhaar"),
    _scheme(r"[2-9]\d{11}", "in_.aadhaar", _ID_WORD),
    _scheme(r"[A-Z]{3}[PCHFATBLJG][A-Z]\d{4}[A-Z]", "in_.pan"),
    # South Korea gives numbers without a checksum since 2020: the date must do.
    _scheme(r"\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])-[1-8]\d{6}"),
    _scheme(rf"\d{{4}}{_S}\d{{4}}{_S}\d{{4}}", "jp.in_", _ID_WORD),
    _scheme(rf"\d{{3}}{_S}\d{{3}}{_S}\d{{3}}", "au.tfn", r"\bTFN\b|tax file"),
    _scheme(r"\d{1}-?\d{4}-?\d{5}-?\d{2}-?\d", "th.pin", rf"บัตรประชาชน|{_ID_WORD}"),
    _scheme(r"\d{2}[01]\d{3}[ ]?\d{4}[ ]?\d{2}[ ]?\d", "za.idnr", _ID_WORD),
)
_PASSPORT = re.compile(
    r"(?:\bpassport|\breisepass|\bpasseport|\bpasaporte|\bpassaporto|\bpassaporte|护照|旅券"
    r"|パスポート|여권)[^\n]{0,24}?(?<![A-Za-z0-9])(?P<value>(?=(?:[A-Z]*\d){5})[A-Z0-9]{6,9})"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_MACHINE_READABLE = re.compile(r"P[A-Z<][A-Z]{3}[A-Z<]{39}\n?[A-Z0-9<]{44}")


def find_national_ids(text: str) -> Iterator[Span]:
    """Spans [start, end) of identity numbers in a folded text; see `fold_numbers`."""
    for scheme in _SCHEMES:
        for match in scheme.pattern.finditer(text):
            is_named_so = scheme.word is None or is_named(text, match.start(), scheme.word)
            if is_named_so and _is_valid(scheme.module, match[0]):
                yield match.span()


def find_passports(text: str) -> Iterator[Span]:
    """Spans [start, end) of passport numbers that a word names, and of machine-readable zones."""
    for match in _PASSPORT.finditer(text):
        yield match.span("value")
    for match in _MACHINE_READABLE.finditer(text):
        yield match.span()


def _is_valid(module: str, number: str) -> bool:
    if not module:
        return True
    digits = re.sub(r"[\s.\-/]", "", number).upper()
    if len(set(digits)) < 3:
        return False
    check: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    if module == "fi.hetu" or module == "se.personnummer":
        return check(number)
    return check(digits)
