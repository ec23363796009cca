"""A value that the model writes otherwise than the corpus does, by the command line, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import kit
from tests.kit import cli

RECORDS = {
    "phone": "Mara Ellison picks up at (415) 555-0142 after six.",
    "phone of abroad": "Reach Mara Ellison under +1 415.555.0142, please.",
    "phone of another": "Rufus Lind: 415-555-0143.",
    "phone within a number": "Parcel 94155550142771 left on Monday.",
    "card": "She paid with 4539 1488 0343 6467 in May.",
    "card and mail": "4539-1488-0343-6467 belongs to MARA.Ellison@Example.org",
    "mail": "Write to mara.ellison@example.org or to nobody.",
    "longer mail": "Write to tamara.ellison@example.org instead.",
    "birth": "Mara Ellison was born on 3 May 1980 in Brackwater.",
    "birth by numbers": "date of birth: 1980-05-03, verified",
    "birth without year": "Her birthday is May 3rd.",
    "birth in another year": "Her aunt was born on May 3, 1958.",
    "name": "MARA   ELLISON, see above.",
    "iban": "Account DE89 3704 0044 0532 0130 00 was closed.",
    "nothing": "The weather was fair, and nobody came.",
}
PHONE, CARD = {"phone", "phone of abroad"}, {"card", "card and mail"}
MAIL = {"mail", "card and mail"}
BIRTH = {"birth", "birth by numbers"}
CASES = [
    ("phone", "415-555-0142", PHONE),
    ("phone", "4155550142", PHONE),
    ("phone", "+1 (415) 555 0142", PHONE),
    ("phone", "415\u2011555\u20110142", PHONE),
    ("phone", "\uff14\uff11\uff15 555 0142", PHONE),
    ("card", "4539148803436467", CARD),
    ("card", "4539.1488.0343.6467", CARD),
    ("email", "Mara.Ellison@EXAMPLE.ORG", MAIL),
    ("email", "mara.ellison at example dot org", MAIL),
    ("birth", "May 3, 1980", BIRTH),
    ("birth", "3rd of May 1980", BIRTH),
    ("birth", "1980/05/03", BIRTH),
    ("iban", "de89370400440532013000", {"iban"}),
    ("phone", "415-555-0144", set()),
    ("birth", "May 4, 1980", set()),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spellings")
    rows = (json.dumps({"id": id, "text": text}) for id, text in RECORDS.items())
    (folder / "corpus.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", folder / "corpus.jsonl"),
        *("-o", folder / "index", "--calibrate", "0", "--quiet", *kit.SMALL_OPTIONS),
    )
    assert made.code == 0, made.err
    return folder / "index"


def test_all_holders_are_listed_whatever_the_spelling(index: Path, tmp_path: Path) -> None:
    """Those that a person would count; they write the value in other ways than the answer."""
    probes = tmp_path / "probes.jsonl"
    rows = [
        {
            "id": str(number),
            "prompt": "The file says",
            "response": f" this: {value}",
            "protected": [{"type": kind, "value": value}],
        }
        for number, (kind, value, _) in enumerate(CASES)
    ]
    probes.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = tmp_path / "sources.jsonl"
    outcome = cli(
        *("trace", "--prompts", probes, "--index", index, "--quiet", "--reveal", "-o", "-"),
        *("--sources", sources),
    )
    assert outcome.code in (1, 3), outcome.err
    findings = {finding["probe"]["id"]: finding for finding in outcome.report["findings"]}
    assert len(findings) == len(CASES)
    for number, (_, value, right) in enumerate(CASES):
        finding = findings[str(number)]
        assert {holder["id"] for holder in finding["holders"]} == right, value
        assert finding["verdict"]["decision"] != "no source found" or not right
        for record in finding["records"]:
            assert record["holds"] == (record["id"] in right), (value, record["id"])
