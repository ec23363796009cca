"""Makes tests/privacy/data/lines.jsonl: lines with a private value each, and lines with none.

    python -m tests.generators.make_private_lines

A line is `[locale, kind, text, start, end]`; kind is null, and there is no place, where the line
holds nothing private. Values are of invented people; see `private_values`.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from faker import Faker

from tests.generators.innocent_lines import innocent_lines
from tests.generators.private_values import KINDS, LOCALES, value_of

PATH = Path(__file__).parents[1] / "privacy" / "data" / "lines.jsonl"
_PER_KIND = 6

# What stands around a value, {} being it, and {n} a name.
_AROUND = {
    "en": {
        "phone": (
            "You can call {n} at {} after six.",
            "Phone: {}",
            "{n}'s mobile is {}, text first.",
        ),
        "email": ("Write to {} today.", "{n} <{}>", "Contact: {}; she answers within a day."),
        "card": (
            "{n} paid with card {} there.",
            "Card number: {}, expires soon.",
            "Charge it to {}.",
        ),
        "national-id": ("{n}'s identity number is {}.", "SSN/ID: {}", "ID {} is on file for {n}."),
        "iban": ("Please transfer it to {}.", "IBAN: {}", "Her account is {} at the bank."),
        "date-of-birth": ("{n} was born on {}.", "DOB: {}", "Her date of birth is {}, she said."),
        "address": ("{n} lives at {}.", "Send it to {}", "Address: {}."),
        "key": ("The key is {} for now.", "export TOKEN={}", 'config = "{}"'),
    },
    "de": {
        "phone": ("Sie erreichen {n} unter {}.", "Tel.: {}", "Rufen Sie {} an."),
        "email": ("Schreiben Sie an {}.", "E-Mail: {}", "{n} ({}) hilft weiter."),
        "card": ("{n} zahlte mit der Karte {}.", "Kartennummer: {}", "Kreditkarte {}"),
        "national-id": (
            "Die Steuer-ID von {n} lautet {}.",
            "Steuer-ID: {}",
            "Steueridentifikationsnummer {}",
        ),
        "iban": ("Bitte überweisen Sie auf {}.", "IBAN: {}", "Das Konto ist {}."),
        "date-of-birth": ("{n} wurde am {} geboren.", "Geburtsdatum: {}", "geboren am {} in Ulm"),
        "address": ("{n} wohnt in der {}.", "Anschrift: {}", "Er zog in die {}."),
        "key": ("Der Schlüssel lautet {}.", "TOKEN={}", "Zugang mit {}"),
    },
    "fr": {
        "phone": ("Appelez {n} au {}.", "Tél. : {}", "Son portable est le {}."),
        "email": ("Écrivez à {}.", "Courriel : {}", "{n}, {}, répond vite."),
        "card": ("{n} a payé avec la carte {}.", "Carte : {}", "Carte bancaire {}"),
        "national-id": (
            "Le numéro de sécurité sociale de {n} est {}.",
            "NIR : {}",
            "Numéro {} au dossier",
        ),
        "iban": ("Virez la somme sur {}.", "IBAN : {}", "Le compte est {}."),
        "date-of-birth": ("{n} est né le {}.", "Date de naissance : {}", "née le {} à Lyon"),
        "address": ("{n} habite {}.", "Adresse : {}", "Il a emménagé au {}."),
        "key": ("La clé est {}.", "JETON={}", "Accès par {}"),
    },
    "es": {
        "phone": ("Llame a {n} al {}.", "Teléfono: {}", "Su móvil es {}."),
        "email": ("Escriba a {}.", "Correo: {}", "{n}, {}, contesta pronto."),
        "card": ("{n} pagó con la tarjeta {}.", "Tarjeta: {}", "Tarjeta de crédito {}"),
        "national-id": ("El DNI de {n} es {}.", "DNI: {}", "Documento {} archivado"),
        "iban": ("Transfiera el importe a {}.", "IBAN: {}", "La cuenta es {}."),
        "date-of-birth": ("{n} nació el {}.", "Fecha de nacimiento: {}", "nacida el {} en Jaén"),
        "address": ("{n} vive en {}.", "Dirección: {}", "Se mudó a {}."),
        "key": ("La clave es {}.", "TOKEN={}", "Acceso con {}"),
    },
    "it": {
        "phone": ("Chiama {n} al {}.", "Telefono: {}", "Il suo cellulare è {}."),
        "email": ("Scriva a {}.", "E-mail: {}", "{n}, {}, risponde subito."),
        "card": ("{n} ha pagato con la carta {}.", "Carta: {}", "Carta di credito {}"),
        "national-id": ("Il codice fiscale di {n} è {}.", "C.F.: {}", "Codice {} agli atti"),
        "iban": ("Versi la somma su {}.", "IBAN: {}", "Il conto è {}."),
        "date-of-birth": ("{n} è nato il {}.", "Data di nascita: {}", "nata il {} a Bari"),
        "address": ("{n} abita in {}.", "Indirizzo: {}", "Si è trasferito in {}."),
        "key": ("La chiave è {}.", "TOKEN={}", "Accesso con {}"),
    },
    "pt": {
        "phone": ("Ligue para {n}: {}.", "Telefone: {}", "O celular dela é {}."),
        "email": ("Escreva para {}.", "E-mail: {}", "{n}, {}, responde logo."),
        "card": ("{n} pagou com o cartão {}.", "Cartão: {}", "Cartão de crédito {}"),
        "national-id": ("O CPF de {n} é {}.", "CPF: {}", "Documento {} arquivado"),
        "iban": ("Transfira o valor para {}.", "IBAN: {}", "A conta é {}."),
        "date-of-birth": ("{n} nasceu em {}.", "Data de nascimento: {}", "nascida em {} em Santos"),
        "address": ("{n} mora na {}.", "Endereço: {}", "Mudou-se para a {}."),
        "key": ("A chave é {}.", "TOKEN={}", "Acesso com {}"),
    },
    "zh": {
        "phone": ("请致电{n}：{}。", "电话：{}", "他的手机号码是{}，请先发短信。"),
        "email": ("请写信到{}。", "邮箱：{}", "{n}的邮箱是{}，谢谢"),
        "card": ("{n}用银行卡{}付款。", "卡号：{}", "信用卡 {}"),
        "national-id": ("{n}的身份证号是{}。", "身份证：{}", "证件号码{}已登记"),
        "iban": ("请汇款到 {}。", "IBAN：{}", "账号是 {}。"),
        "date-of-birth": ("{n}生于{}。", "出生日期：{}", "他的生日是{}。"),
        "address": ("{n}住在{}。", "地址：{}", "请寄到{}。"),
        "key": ("密钥是 {}。", "TOKEN={}", "访问用 {}"),
    },
    "ja": {
        "phone": ("{n}さんの電話は{}です。", "電話：{}", "携帯 {} に連絡してください。"),
        "email": ("{}までお送りください。", "メール：{}", "{n}さん（{}）が担当です。"),
        "card": ("{n}さんはカード{}で払った。", "カード番号：{}", "クレジットカード {}"),
        "national-id": ("{n}さんのマイナンバーは{}です。", "個人番号：{}", "マイナンバー {}"),
        "iban": ("{} に送金してください。", "IBAN：{}", "口座は {} です。"),
        "date-of-birth": ("{n}さんは{}に生まれた。", "生年月日：{}", "誕生日は{}です。"),
        "address": ("{n}さんは{}に住んでいる。", "住所：{}", "{}へ送ってください。"),
        "key": ("鍵は {} です。", "TOKEN={}", "接続 {}"),
    },
}


def lines() -> list[list[object]]:
    """The lines; the same in every run with the tested version of Faker."""
    made: list[list[object]] = []
    for locale in LOCALES:
        faker = Faker(locale)
        faker.seed_instance(f"{locale}-people")
        random = Random(f"{locale}-values")
        for kind in KINDS:
            around = _AROUND[locale[:2]][kind]
            for number in range(_PER_KIND):
                value = value_of(kind, locale, faker, random)
                before, _, after = around[number % len(around)].partition("{}")
                before, after = (text.replace("{n}", faker.name()) for text in (before, after))
                text = before + value + after
                made.append([locale, kind, text, len(before), len(before) + len(value)])
    for locale, text in innocent_lines(Random("innocent")):
        made.append([locale, None, text])
    return made


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines()))
