"""Private values of invented people, by kind and locale, that detectors are measured on.

Numbers are of ranges that regulators reserve for fiction where a country has one; e-mail hosts are
reserved names; keys are put together from random characters.
"""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import string
from random import Random

from faker import Faker
from stdnum import luhn, verhoeff
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.iso7064 import mod_11_2, mod_11_10
from stdnum.it import codicefiscale
from stdnum.jp import in_

LOCALES = (
    *("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pt_BR", "zh_CN", "ja_JP", "en_IN"),
)
_HOSTS = ("example.org", "example.com", "mail.example.net", "post.example.co.uk", "büro.example")


def value_of(kind: str, locale: str, faker: Faker, random: Random) -> str:
    """A value of a kind as people of a locale write it."""
    return _MAKERS[kind](locale, faker, random)


def _digits(random: Random, count: int) -> str:
    return "".join(random.choices(string.digits, k=count))


def _signs(random: Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.choices(alphabet, k=count))


def _email(locale: str, faker: Faker, random: Random) -> str:
    first, last = {
        "zh_CN": ("wei", "zhang"),
        "ja_JP": ("yuki", "sato"),
    }.get(locale, (faker.first_name().lower(), faker.last_name().lower()))
    first, last = first.replace(" ", ""), last.replace(" ", "-")
    local = random.choice(
        (f"{first}.{last}", f"{first[0]}{last}{_digits(random, 2)}", f"{first}_{last}+news", last)
    )
    return f"{local}@{random.choice(_HOSTS)}"


def _phone(locale: str, faker: Faker, random: Random) -> str:
    last = _digits(random, 2)
    forms = {
        "en_US": (f"(212) 555-01{last}", f"415-555-01{last}", f"+1 646 555 01{last}",
                  f"503.555.01{last}", f"1-808-555-01{last}"),
        "en_GB": (f"020 7946 0{_digits(random, 3)}", f"07700 900{_digits(random, 3)}",
                  f"+44 20 7946 0{_digits(random, 3)}", f"+44 (0)7700 900{_digits(random, 3)}"),
        "de_DE": (f"030 23125{_digits(random, 3)}", f"+49 30 23125{_digits(random, 3)}",
                  f"0171/39200{last}", f"+49 (0)171 39200{last}", f"(030) 23125-{_digits(random, 3)}"),
        "fr_FR": (f"06 39 98 {last} {_digits(random, 2)}", f"01.99.00.{last}.{_digits(random, 2)}",
                  f"+33 6 39 98 {last} {_digits(random, 2)}", f"06-39-98-{last}-{_digits(random, 2)}"),
        "es_ES": (f"+34 612 34 {last} {_digits(random, 2)}", f"612 34 {last} {_digits(random, 2)}",
                  f"91 123 {last} {_digits(random, 2)}", f"612-34{last[0]}-{_digits(random, 3)}"),
        "it_IT": (f"+39 347 12{last} {_digits(random, 3)}", f"347 12{last}{_digits(random, 3)}",
                  f"06 6982 {_digits(random, 4)}", f"02/1234{_digits(random, 4)}"),
        "pt_BR": (f"(11) 91234-{_digits(random, 4)}", f"+55 21 98765-{_digits(random, 4)}",
                  f"(21) 3456-{_digits(random, 4)}", f"11 91234{_digits(random, 4)}"),
        "zh_CN": (f"138-0013-{_digits(random, 4)}", f"1390013{_digits(random, 4)}",
                  f"010-6234{_digits(random, 4)}", f"+86 138 0013 {_digits(random, 4)}"),
        "ja_JP": (f"090-1234-{_digits(random, 4)}", f"03-1234-{_digits(random, 4)}",
                  f"+81 90 1234 {_digits(random, 4)}", f"0901234{_digits(random, 4)}"),
        "en_IN": (f"+91 98765 4{_digits(random, 4)}", f"98765 4{_digits(random, 4)}",
                  f"098765 4{_digits(random, 4)}", f"98765-4{_digits(random, 4)}"),
    }  # fmt: skip
    return random.choice(forms[locale])


def _card(locale: str, faker: Faker, random: Random) -> str:
    start, length = random.choice((("4539", 16), ("5105", 16), ("3782", 15), ("6011", 16)))
    body = start + _digits(random, length - 5)
    number = body + luhn.calc_check_digit(body)
    groups = (number[:4], number[4:10], number[10:]) if length == 15 else [
        number[i : i + 4] for i in range(0, 16, 4)
    ]  # fmt: skip
    return random.choice((" ", "-", "")).join(groups)


def _national_id(locale: str, faker: Faker, random: Random) -> str:
    year, month, day = random.randint(40, 99), random.randint(1, 12), random.randint(1, 28)
    if locale == "en_US":
        return f"{random.randint(100, 665)}-{random.randint(10, 99)}-{random.randint(1000, 9999)}"
    if locale == "en_GB":
        pairs = _digits(random, 6)
        sign = random.choice((" ", ""))
        prefix, suffix = random.choice(("AB", "JG", "TW")), random.choice("ABCD")
        return sign.join((prefix, pairs[:2], pairs[2:4], pairs[4:], suffix))
    if locale == "de_DE":
        while True:  # one digit of the first ten stands there twice or thrice
            body = _digits(random, 10)
            number = body + mod_11_10.calc_check_digit(body)
            if idnr.is_valid(number):
                return idnr.format(number)
    if locale == "fr_FR":
        number = (
            f"{random.randint(1, 2)}{year}{month:02d}75{_digits(random, 3)}{_digits(random, 3)}"
        )
        return nir.format(number + nir.calc_check_digits(number))
    if locale == "es_ES":
        number = _digits(random, 8)
        return random.choice(("", "-")).join((number, dni.calc_check_digit(number)))
    if locale == "it_IT":
        body = f"RSSMRA{year}{random.choice('ABCDEHLMPRST')}{day:02d}H501"
        return body + codicefiscale.calc_check_digit(body)
    if locale == "pt_BR":
        return faker.cpf()
    if locale == "zh_CN":
        body = f"110105{1900 + year}{month:02d}{day:02d}{_digits(random, 3)}"
        return body + mod_11_2.calc_check_digit(body)
    if locale == "ja_JP":
        body = _digits(random, 11)
        number = body + in_.calc_check_digit(body)
        return " ".join((number[:4], number[4:8], number[8:]))
    body = random.choice("23456789") + _digits(random, 10)
    number = body + verhoeff.calc_check_digit(body)
    return " ".join((number[:4], number[4:8], number[8:]))


def _iban(locale: str, faker: Faker, random: Random) -> str:
    country = {"en_US": "NL", "en_GB": "GB", "de_DE": "DE", "fr_FR": "FR", "es_ES": "ES",
               "it_IT": "IT", "pt_BR": "BE", "zh_CN": "CH", "ja_JP": "AT", "en_IN": "PL"}[locale]  # fmt: skip
    own = {"NL": "nl_NL", "GB": "en_GB", "DE": "de_DE", "FR": "fr_FR", "ES": "es_ES", "IT": "it_IT",
           "BE": "nl_BE", "CH": "de_CH", "AT": "de_AT", "PL": "pl_PL"}[country]  # fmt: skip
    maker = Faker(own)
    maker.seed_instance(random.randint(0, 10**6))
    number = maker.iban()
    grouped = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return random.choice((number, grouped, grouped.replace(" ", "-")))


_MONTHS = {
    "de_DE": ("Januar", "März", "Mai", "Dezember"),
    "fr_FR": ("janvier", "mars", "août", "décembre"),
    "es_ES": ("enero", "marzo", "agosto", "diciembre"),
    "it_IT": ("gennaio", "marzo", "agosto", "dicembre"),
    "pt_BR": ("janeiro", "março", "agosto", "dezembro"),
    "en_US": ("January", "March", "August", "Dec."),
}


def _birthday(locale: str, faker: Faker, random: Random) -> str:
    year, month, day = random.randint(1940, 2005), random.randint(1, 12), random.randint(1, 28)
    name = random.choice(_MONTHS.get(locale, _MONTHS["en_US"]))
    forms = {
        "en_US": (f"{name} {day}, {year}", f"{month}/{day}/{year}", f"{year}-{month:02d}-{day:02d}"),
        "de_DE": (f"{day}. {name} {year}", f"{day:02d}.{month:02d}.{year}", f"{day}.{month}.{year % 100:02d}"),
        "fr_FR": (f"{day} {name} {year}", f"{day:02d}/{month:02d}/{year}"),
        "es_ES": (f"{day} de {name} de {year}", f"{day:02d}/{month:02d}/{year}"),
        "it_IT": (f"{day} {name} {year}", f"{day:02d}/{month:02d}/{year}"),
        "pt_BR": (f"{day} de {name} de {year}", f"{day:02d}/{month:02d}/{year}"),
        "zh_CN": (f"{year}年{month}月{day}日", f"{year}-{month:02d}-{day:02d}"),
        "ja_JP": (f"{year}年{month}月{day}日", f"{year}/{month:02d}/{day:02d}"),
    }.get(locale, (f"{day} {name} {year}", f"{day:02d}/{month:02d}/{year}", f"{day}-{name}-{year}"))  # fmt: skip
    return random.choice(forms)


def _address(locale: str, faker: Faker, random: Random) -> str:
    number = random.randint(2, 240)
    forms = {
        "en_US": (f"{number} Heron Street, Kelmsford, OH 44{_digits(random, 3)}", f"{number} N. Alder Ave, Apt 4B"),
        "en_GB": (f"{number} Tollgate Road, Marlow SL7 1AB", f"Flat 3, {number} Quarry Lane"),
        "de_DE": (f"Lindenstraße {number}, 10{_digits(random, 3)} Berlin", f"Am Alten Markt {number}, 50{_digits(random, 3)} Köln", f"Hauptstr. {number}a"),
        "fr_FR": (f"{number} rue des Lilas, 750{random.randint(10, 20)} Paris", f"{number} bis avenue de la Gare, 69003 Lyon", f"{number}, boulevard Voltaire"),
        "es_ES": (f"Calle Mayor {number}, 280{random.randint(10, 49)} Madrid", f"C/ Olmo, {number}, 3º B", f"Avenida de la Paz {number}"),
        "it_IT": (f"Via Garibaldi {number}, 001{random.randint(10, 99)} Roma", f"Piazza Dante {number}", f"Corso Italia, {number}, 20122 Milano"),
        "pt_BR": (f"Rua das Acácias, {number}, São Paulo", f"Av. Central, {number} - Centro", f"Rua Bela Vista {number}, 01310-100 São Paulo"),
        "zh_CN": (f"上海市浦东新区世纪大道{number}号", f"北京市朝阳区建国路{number}号2单元301室"),
        "ja_JP": (f"東京都千代田区丸の内{number % 9 + 1}-{number % 7 + 1}-{number % 5 + 1}", f"大阪府大阪市北区梅田{number % 9 + 1}丁目{number % 20 + 1}番{number % 9 + 1}号"),
        "en_IN": (f"{number} MG Road, Bengaluru 5600{_digits(random, 2)}", f"{number} Nehru Marg, New Delhi 1100{_digits(random, 2)}"),
    }  # fmt: skip
    return random.choice(forms[locale])


def _key(locale: str, faker: Faker, random: Random) -> str:
    upper = string.ascii_uppercase + string.digits
    return random.choice(
        (
            "AKIA" + _signs(random, 16, upper),
            "gh" + "p_" + _signs(random, 36),
            "xox" + f"b-{_digits(random, 12)}-{_digits(random, 12)}-{_signs(random, 24)}",
            "SG" + f".{_signs(random, 22)}.{_signs(random, 43)}",
            "ya29" + f".a0{_signs(random, 40)}",
            _digits(random, 9) + ":AA" + _signs(random, 33),
            "AIza" + _signs(random, 35),
            "sk" + "_live_" + _signs(random, 24),
            "eyJ" + _signs(random, 20) + ".eyJ" + _signs(random, 30) + "." + _signs(random, 40),
            "hf" + "_" + _signs(random, 34),
            "glpat" + "-" + _signs(random, 20),
        )
    )


_MAKERS = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "national-id": _national_id,
    "iban": _iban,
    "date-of-birth": _birthday,
    "address": _address,
    "key": _key,
}
KINDS = tuple(_MAKERS)
