"""Which records hold a value: by the kept keys as by reading every record, in any spelling."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haiftrace.index import value_index
from haiftrace.index.value_index import keep_value_keys
from haiftrace.privacy import ValueIndex
from haiftrace.privacy.lookup_keys import text_keys, value_keys
from haiftrace.progress import Silent
from haiftrace.scoring import holder_search
from haiftrace.scoring.holder_search import VALUE_KEYS, HolderSearch
from haiftrace.store import Index
from haiftrace.text.grams import GRAM, gram_hashes
from tests import kit

TEXTS = (
    "Call Mara on (555) 010-0142, or write to mara@example.org.",
    "Mara's number is +1 555 010 0142 and she was born on 3 May 1980.",
    "Tobin can be reached at 555.010.0199; born 1980-05-03.",
    "An order of 15550100142999 pieces, on 4 May 1980.",
    "Ｍａｒａ： ５５５－０１０－０１４２",
    "No value at all.",
)
VALUES = {
    "555-010-0142": [0, 1, 4],
    "MARA@EXAMPLE.ORG": [0],
    "May 3, 1980": [1, 2],
    "555 010 0199": [2],
    "Mara": [0, 1, 4],
    "555-010-0143": [],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("holders")
    kit.make_index(folder / "index", kit.write_corpus(folder / "corpus.jsonl", TEXTS))
    return folder / "index"


def test_every_spelling_is_looked_up_with_keys_and_without(path, tmp_path):
    with Index.open(path) as index:
        assert HolderSearch(index).records(list(VALUES)) == list(VALUES.values())
    shutil.copytree(path, tmp_path / "i")
    keep_value_keys(tmp_path / "i", Silent())
    with Index.open(tmp_path / "i") as index:
        assert index.supplement(VALUE_KEYS) is not None
        assert HolderSearch(index).records(list(VALUES)) == list(VALUES.values())


def test_only_records_with_the_keys_are_read(path, tmp_path, monkeypatch):
    shutil.copytree(path, tmp_path / "i")
    monkeypatch.setattr(value_index, "_KEYS_OF_A_FILE", 50)  # several files
    keep_value_keys(tmp_path / "i", Silent())
    read: list[int] = []

    class Reading(ValueIndex):
        def find(self, text, words=False):
            read.append(TEXTS.index(text))
            return super().find(text, words)

    monkeypatch.setattr(holder_search, "ValueIndex", Reading)
    with Index.open(tmp_path / "i") as index:
        assert len(list(index.supplement_tensors(VALUE_KEYS))) > 1
        assert HolderSearch(index).records(["555-010-0199"]) == [[2]]
    assert read == [2]


def test_kept_keys_are_not_computed_twice(path, tmp_path, monkeypatch):
    shutil.copytree(path, tmp_path / "i")
    keep_value_keys(tmp_path / "i", Silent())
    monkeypatch.setattr(value_index, "text_keys", None)
    keep_value_keys(tmp_path / "i", Silent())


characters = st.text(st.sampled_from("aB5é-. (０)\u200b"), max_size=40)


@given(before=characters, value=characters, after=characters)
def test_a_text_that_holds_a_value_has_its_keys(before, value, after):
    text = f"{before} {value} {after}"
    alternatives = value_keys(value)
    if alternatives is None or not ValueIndex([value]).find(text, words=True):
        return
    keys = set(text_keys(text).tolist())
    assert any(set(needed.tolist()) <= keys for needed in alternatives)


@given(st.text(max_size=30))
def test_hashes_are_those_of_all_runs(text):
    runs = {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)}
    right = sorted({int(gram_hashes(run)[0]) for run in runs}) if runs else []
    ours = gram_hashes(text)
    assert ours.tolist() == right
    assert ours.dtype == np.uint32
