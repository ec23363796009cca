"""Finding, recognising and masking private values."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.privacy import (
    MASK,
    TYPES,
    DetectionSettings,
    Masker,
    ValueIndex,
    canonical,
    detect,
    mask_value,
)

TOKEN = "gh" + "p_" + "a1B2" * 9  # put together here, so that no scanner takes it for a real one

FOUND = {
    "email": [
        ("Write to mara.o'k@example.org today", "mara.o'k@example.org"),
        ("mail: jo_doe+x@mail.example.co.uk.", "jo_doe+x@mail.example.co.uk"),
        ("邮箱是zhang.wei@example.cn，谢谢", "zhang.wei@example.cn"),
    ],
    "phone": [
        ("Call 555-0134 now", "555-0134"),
        ("at (555) 123-4501.", "(555) 123-4501"),
        ("dial +44 20 7946 0958 or", "+44 20 7946 0958"),
        ("ring 020 7946 0958", "020 7946 0958"),
        ("Her phone is 4433221.", "4433221"),
        ("电话：138-0013-8000。", "138-0013-8000"),
        ("手机１３８００１３８０００", "１３８００１３８０００"),
        ("总机 010-62345678", "010-62345678"),
        ("348-555-0169", "348-555-0169"),
    ],
    "card": [
        ("card 4111 1111 1111 1111 ok", "4111 1111 1111 1111"),
        ("5555-5555-5555-4444", "5555-5555-5555-4444"),
        ("378282246310005", "378282246310005"),
    ],
    "national-id": [
        ("SSN 123-45-6789", "123-45-6789"),
        ("social security number 123456789", "123456789"),
        ("身份证11010519491231002X。", "11010519491231002X"),
        ("NINO AB 12 34 56 C", "AB 12 34 56 C"),
    ],
    "iban": [
        ("to GB82 WEST 1234 5698 7654 32 today", "GB82 WEST 1234 5698 7654 32"),
        ("DE89370400440532013000", "DE89370400440532013000"),
    ],
    "date-of-birth": [
        ("was born on May 1, 1980 in", "May 1, 1980"),
        ("Born in Kelmsford on 4 March 1981.", "4 March 1981"),
        ("DOB: 1980-05-01", "1980-05-01"),
        ("came into the world on June 5, 1963.", "June 5, 1963"),
        ("张伟生于1980年5月1日", "1980年5月1日"),
        ("一九八〇年五月一日出生", "一九八〇年五月一日"),
    ],
    "crypto": [
        ("pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa now", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    ],
    "passport": [("her passport number is X12345678.", "X12345678")],
    "ip": [("from 203.0.113.42 at noon", "203.0.113.42")],
    "address": [
        ("lives at 12 Heron Street, Kelmsford.", "12 Heron Street, Kelmsford"),
        ("8714 Mann Plaza\nLisaside, PA 72227", "8714 Mann Plaza\nLisaside, PA 72227"),
        ("at 221B Baker St, London NW1 6XE", "221B Baker St, London NW1 6XE"),
        ("张伟住在上海市浦东新区世纪大道100号", "上海市浦东新区世纪大道100号"),
    ],
    "key": [
        (f"export T={TOKEN}", TOKEN),
        ("AKIA" + "IOSFODNN7EXAMPLE", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("the password is hunter22!", "hunter22"),
        ("密码：abc12345", "abc12345"),
    ],
}
NOT_FOUND = [
    "an e-mail @ noon, user@localhost",
    "pages 100-2000 of ISO 639-3166, 2020-2021",
    "version 1.2.3.4 of 10.1000/182, pi is 3.1415926535",
    "order 4111 1111 1111 1112",
    "000-45-6789 and 987-65-4321",
    "11010519491231002Y or 110105194912310021",
    "GB82 WEST 1234 5698 7654 33",
    "The war began on 1 September 1939.",
    "in 12 years the Street changed",
    "他走在路上，3号会议室",
    "the password is secret",
    "a token of the vocabulary, sk-learn",
    "2023年5月1日放假",
]


@pytest.mark.parametrize(
    ("type", "text", "value"), [(t, *case) for t, cases in FOUND.items() for case in cases]
)
def test_a_detector_finds_what_it_is_for(type, text, value):
    settings = DetectionSettings(types=TYPES)
    found = [(d.type, text[d.start : d.end]) for d in detect(text, settings=settings)]
    assert found == [(type, value)]


def test_every_detector_has_cases():
    assert set(FOUND) == set(TYPES)


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_is_no_private_value(text):
    assert detect(text) == []


def test_what_stands_before_says_what_a_date_is():
    assert detect("October 31.") == []
    (found,) = detect("October 31.", "What's the birthday of Mara? ")
    assert (found.type, found.start, found.end) == ("date-of-birth", 0, 10)


SAME = [
    (
        "555-0134",
        ["555 0134", "5550134", "(555) 0134", "５５５－０１３４", "五五五〇一三四", "555.0134"],
    ),
    ("+1 555 123 4501", ["(555) 123-4501", "1-555-123-4501", "555.123.4501", "001 555 1234501"]),
    ("020 7946 0958", ["+44 20 7946 0958", "+44 (0)20 7946 0958"]),
    (
        "May 1, 1980",
        ["1980-05-01", "1 May 1980", "1st of May, 1980", "01/05/1980", "5/1/1980", "1980年5月1日"],
    ),
    ("1980-05-01", ["May 1st 1980", "一九八〇年五月一日", "1980.5.1", "１９８０年５月１日"]),
    ("October 31", ["31 October", "Oct. 31st, 1970", "10月31日", "1970-10-31"]),
    ("Mara.Okonkwo@Example.org", ["mara.okonkwo@example.org", "MARA.OKONKWO@EXAMPLE.ORG"]),
    ("12 Heron Street, Kelmsford", ["12 heron street\nKelmsford", "12 Heron Street Kelmsford"]),
    ("José Núñez", ["jose nunez", "JOSE\u0301 NUN\u0303EZ"]),
    ("张伟", ["我是张伟。"]),
]
OTHER = [
    ("555-0134", ["555-0135", "4555-01345", "555 apples, 0134 pears"]),
    ("May 1, 1980", ["May 2, 1980", "May 1", "1 May 1981"]),
    ("1234", ["1, 2, 3, 4", "12345", "1. 234"]),
    ("Ann", ["Annabel", "plAnned"]),
    ("31", ["2031", "310"]),
]


@pytest.mark.parametrize(("value", "text"), [(v, t) for v, texts in SAME for t in texts])
def test_a_value_is_recognised_in_another_spelling(value, text):
    said = f"so: {text} (yes)"
    for words in (False, True):
        found = ValueIndex([value]).find(said, words)
        assert found
        assert canonical(text).text in canonical(said[found[0].start : found[-1].end]).text or (
            found[0].end > found[0].start
        )


@pytest.mark.parametrize(("value", "text"), [(v, t) for v, texts in OTHER for t in texts])
def test_another_value_is_not_taken_for_it(value, text):
    assert ValueIndex([value]).find(text, words=True) == []


def test_a_match_names_its_value_and_place():
    found = ValueIndex(["555-0134", "a@b.example"]).find("A@b.example or 555 0134", words=True)
    assert [(m.value, m.start, m.end) for m in found] == [(1, 0, 11), (0, 15, 23)]


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("555-123-4501", "5••-•••-••01"),
        ("555-0134", "•••-••••"),
        ("12345678", "1••••••8"),
        ("张伟", "••"),
        ("", ""),
    ],
)
def test_what_a_mask_shows(value, masked):
    assert mask_value(value) == masked


TEXTS = st.text(alphabet="ab é1２50-. ,()@\n五〇ﬁß•", max_size=40)


@given(st.text(max_size=40))
def test_a_mask_shows_no_more_than_about_a_quarter(value):
    masked = mask_value(value)
    assert len(masked) == len(value)
    signs = [i for i, sign in enumerate(value) if canonical(sign).text]
    shown = [i for i in signs if masked[i] == value[i] and value[i] != MASK]
    assert len(shown) <= min(3, round(len(signs) / 4 + 0.01) + (len(signs) == 10))
    assert not shown or len(signs) >= 8


@given(TEXTS, st.lists(TEXTS, max_size=5))
def test_no_value_survives_and_no_offset_moves(text, values):
    masker = Masker(values)
    masked = masker.masked(text)
    assert len(masked.text) == len(text) == len(masked.touched)
    assert ValueIndex(values).find(masked.text) == []
    for old, new, hit in zip(text, masked.text, masked.touched, strict=True):
        assert old == new or (new == MASK and hit)


@given(TEXTS, TEXTS, st.text(alphabet="0123456789", min_size=7, max_size=12), st.integers(0, 99))
def test_a_number_is_hidden_however_it_is_written(before, after, digits, seed):
    spelled = random.Random(seed).choice(
        [
            digits,
            f"{digits[:3]}-{digits[3:]}",
            f"({digits[:3]}) {digits[3:6]} {digits[6:]}",
            digits.translate({48 + d: 0xFF10 + d for d in range(10)}),
            digits.translate({48 + d: "〇一二三四五六七八九"[d] for d in range(10)}),
        ]
    )
    masked = Masker([digits]).masked(f"{before}x{spelled}x{after}")
    assert spelled not in masked.text
    assert digits not in canonical(masked.text).text
    assert sum(masked.touched) >= len(digits)


@given(TEXTS, st.lists(TEXTS, max_size=3), st.integers(0, 2**32))
def test_pieces_are_masked_as_the_whole_is(text, values, seed):
    cuts = random.Random(seed)
    pieces, at = [], 0
    while at < len(text):
        size = cuts.randint(1, 4)
        pieces.append(text[at : at + size])
        at += size
    masker = Masker(values)
    masks = masker.pieces(pieces, text)
    assert [len(m.text) for m in masks] == [len(p) for p in pieces]
    joined = "".join(m.text for m in masks)
    assert all(a in (b, MASK) for a, b in zip(joined, text, strict=True))
    assert ValueIndex(values).find(joined) == []


def test_a_part_of_a_value_is_hidden_where_the_rest_stands_elsewhere():
    masker = Masker(["555-0134"])
    whole = "Her phone is 555-0134."
    masks = masker.pieces(["-01", "34", "."], whole)
    assert [m.text for m in masks] == ["-••", "••", "."]
    assert [any(m.touched) for m in masks] == [True, True, False]
    # What cannot be placed may be part of a value.
    assert [m.text for m in masker.pieces(["0134", "?!"], "elsewhere 555-0134 only")] == [
        "••••",
        "••",
    ]
