"""Kinds of fault that detectors had, each with lines of our own: what is seen, and what is not."""

from __future__ import annotations

import pytest

from haiftrace.errors import UsageError
from haiftrace.privacy import (
    DEFAULT_TYPES,
    TYPES,
    DetectionSettings,
    detect,
    read_allowed,
    read_regions,
    read_types,
)

SEEN = {
    "phone": [
        ("appelez le 06 39 98 21 43", "06 39 98 21 43"),
        ("tél. 01.99.00.21.43", "01.99.00.21.43"),
        ("(21) 93456-7812", "(21) 93456-7812"),
        ("or on +44 (20) 7946 0321 before noon", "+44 (20) 7946 0321"),
        ("+49 (0)171 3920021", "+49 (0)171 3920021"),
        ("080-4321-8765", "080-4321-8765"),
        ("ring 0918 321 7654 now", "0918 321 7654"),
        ("Asha's mobile is 9812345670", "9812345670"),
        ("phone: 6465550187", "6465550187"),
        ("6465550187 is her phone", "6465550187"),
        ("646/555-0187", "646/555-0187"),
        ("+7 (495) 555-01-87", "+7 (495) 555-01-87"),
        ("пишите на 8 (812) 555-21-34", "8 (812) 555-21-34"),
        ('<a href="tel:+16465550187">', "+16465550187"),
    ],
    "email": [
        ("jörg.böhm@example.de", "jörg.böhm@example.de"),
        ("ana@bücher.example", "ana@bücher.example"),
        ("d'arcy+post@example.photography", "d'arcy+post@example.photography"),
        ("<mailto:ana@example.com>", "ana@example.com"),
        ("почта@пример.рф", "почта@пример.рф"),
        ("邮箱是wei@example.cn谢谢", "wei@example.cn"),
    ],
    "key": [
        ("postgres://ana:pa55word@db.example.org:5432/x", "pa55word"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA7",
            "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA7",
        ),
        (
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBGX",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBGX",
        ),
        ("the wifi password is sunshine42", "sunshine42"),
        ("das Kennwort lautet Birke!44x", "Birke!44x"),
        ("GOCSPX-" + "aB3dE6gH9jK2mN5pQ8sT1vW4", "GOCSPX-" + "aB3dE6gH9jK2mN5pQ8sT1vW4"),
    ],
    "national-id": [
        ("SSN: 219.09.9321", "219.09.9321"),
        ("ITIN 900-70-1234", "900-70-1234"),
        ("CPF 529.982.247-25", "529.982.247-25"),
        ("AHV 756.9217.0769.85", "756.9217.0769.85"),
        ("PESEL 44051401359", "44051401359"),
    ],
    "iban": [("NL91-ABNA-0417-1643-00", "NL91-ABNA-0417-1643-00")],
    "card": [("4111.1111.1111.1111", "4111.1111.1111.1111")],
    "date-of-birth": [
        ("date of birth 9.8.79", "9.8.79"),
        ("her birthday is the 9th of August", "9th of August"),
        ("geboren am 9. August 1979", "9. August 1979"),
        ("Geb. Datum 09.08.1979", "09.08.1979"),
        ("Geb.-Tag: 09.08.1979", "09.08.1979"),
        ("née le 9 août 1979", "9 août 1979"),
        ("nacido el 9 de agosto de 1979", "9 de agosto de 1979"),
        ("1979年8月9日に生まれた", "1979年8月9日"),
    ],
    "address": [
        ("wohnt in der Ahornstraße 12, 10115 Berlin", "Ahornstraße 12, 10115 Berlin"),
        ("habite 12 rue des Érables, 75011 Paris", "12 rue des Érables, 75011 Paris"),
        ("vive en Calle Olmo 12, 28013 Madrid", "Calle Olmo 12, 28013 Madrid"),
        ("東京都港区芝公園4-2-8", "東京都港区芝公園4-2-8"),
        ("дом на ул. Лесной, д. 5, кв. 12", "ул. Лесной, д. 5, кв. 12"),
        ("Литейный проспект, 28", "Литейный проспект, 28"),
        ("вул. Хрещатик, 22, Київ", "вул. Хрещатик, 22"),
    ],
    "crypto": [
        (
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        )
    ],
    "ip": [("2001:db8::ff00:42:8329", "2001:db8::ff00:42:8329")],
    "passport": [("passport no. C01X00T47", "C01X00T47")],
}
NOT_SEEN = [
    "Order number 20250317",
    "number of entries: 23456789",
    "contact years 2011-2017",
    "pages 210-1456 of the volume",
    "The number of students rose to 2 345 678",
    "release 11.12.3 build 2021.05.321",
    "at 51.507351, -0.127758",
    "ISBN 978-0-306-40615-7",
    "The token is seq2seq-based",
    "She was born in a village with 2/3/4 rules",
    "git@example.org:heron/tools.git",
    "lives at 10.0.0.12",
    "IMEI 490154203237518",
    "your password: ********",
    "call 911",
    "на площади Победы 9 мая 1945 года",
    "глава 8 (2015), 412-57",
    "das Passwort lautet anders",
]


@pytest.mark.parametrize(
    ("type", "text", "value"), [(t, *case) for t, cases in SEEN.items() for case in cases]
)
def test_what_a_person_would_read(type, text, value):
    detected = detect(text, settings=DetectionSettings(types=TYPES))
    assert [(d.type, text[d.start : d.end]) for d in detected] == [(type, value)]


@pytest.mark.parametrize("text", NOT_SEEN)
def test_what_a_person_would_not_take_for_private(text):
    assert detect(text) == []


def test_types_are_chosen_by_name():
    assert "ip" not in DEFAULT_TYPES
    assert "passport" not in DEFAULT_TYPES
    assert read_types("phone, email") == ("email", "phone")
    assert set(read_types("+ip,-phone")) == (set(DEFAULT_TYPES) | {"ip"}) - {"phone"}
    assert read_types("all") == TYPES
    with pytest.raises(UsageError):
        read_types("phones")


def test_regions_say_whose_national_numbers_are_known():
    text = "so 021 234 56 78 it was"
    assert read_regions("ch, de") == ("CH", "DE")
    assert detect(text, settings=DetectionSettings(regions=("CH",)))
    assert not detect(text, settings=DetectionSettings(regions=("JP",)))
    with pytest.raises(UsageError):
        read_regions("XX")


def test_an_allowed_value_is_none_however_it_is_spelled(tmp_path):
    path = tmp_path / "allowed.txt"
    path.write_text("\ufeff# support\n+1 646 555 0187\n\n")
    settings = DetectionSettings(allowed=read_allowed(str(path)))
    assert not detect("Call +1 (646) 555-0187.", settings=settings)
    assert detect("Call +1 (646) 555-0188.", settings=settings)
    path.write_text("---\n")
    with pytest.raises(UsageError, match="1"):
        read_allowed(str(path))
    with pytest.raises(UsageError):
        read_allowed(str(tmp_path / "none.txt"))
