"""Records that are token ids: traced as they stand, with the text that they spell."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus.token_offsets import decode_tokens
from haiftrace.corpus.windows import windows_of
from tests.corpus.corpus_kit import failure, jsonl, read
from tests.corpus.windows_kit import SENTENCES, TEXTS, byte_level


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def windows(path: Path | str, context: int = 1000, loss_on: str = "all", **options):
    (record,) = read(path, ids_field=options.pop("ids_field", "input_ids"), loss_on=loss_on)
    return windows_of(record, byte_level("bos eos"), context, loss_on, **options)


def test_a_packed_sequence_is_these_tokens_and_no_other(here):
    tokenizer = byte_level("bos eos")
    ids = [i for text in SENTENCES for i in tokenizer(text)["input_ids"]][3:-4]
    jsonl(here / "a.jsonl", {"input_ids": ids, "id": "p"})
    (window,) = windows("a.jsonl", append_eos=True)
    assert window.token_ids == ids
    assert window.labels == [False] + [True] * (len(ids) - 1)
    assert window.record_id == "p"
    assert "</s><s>张伟住在北京。他的电话是 138-0013-8000。</s><s>" in window.text
    pieces = [window.text[a:b] for a, b in window.offsets]
    assert "北" in pieces or "北京" in "".join(pieces)
    several = windows("a.jsonl", context=32)
    assert several[0].token_ids == ids[:32]
    assert sum(sum(w.labels) for w in several) == len(ids) - 1
    assert {w.text for w in several} == {window.text}


def test_ids_of_a_table_in_a_field_of_its_own(here):
    pq.write_table(pa.table({"toks": [[5, 6, 7]], "text": ["not read"]}), "a.parquet")
    assert windows("a.parquet", ids_field="toks")[0].token_ids == [5, 6, 7]


def test_padding_is_out_and_labels_say_what_carries_loss(here):
    base = {"input_ids": [5, 6, 7, 8, 0, 0], "attention_mask": [1, 1, 1, 1, 0, 0]}
    for marks in (
        {"labels": [-100, -100, 7, 8, -100, -100]},
        {"completion_mask": [0, 0, 1, 1, 0, 0]},
        {"assistant_masks": [0, 0, 1, 1, 0, 0]},
    ):
        jsonl(here / "a.jsonl", base | marks)
        (window,) = windows("a.jsonl", loss_on="response")
        assert window.token_ids == [5, 6, 7, 8]
        assert window.labels == [False, False, True, True]
        assert windows("a.jsonl")[0].labels == [False, True, True, True]
    jsonl(here / "a.jsonl", base)
    error = failure("a.jsonl", ids_field="input_ids", loss_on="response")
    assert "no response to put the loss on" in error.message
    assert "labels" in error.hint


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input_ids": "555-0199"}, "the field 'input_ids' is a string, not a list of token ids"),
        ({"input_ids": [5, "555-0199"]}, "the field 'input_ids' holds something else than whole"),
        ({"input_ids": [5, 1.5]}, "the field 'input_ids' holds something else than whole numbers"),
        ({"input_ids": [5, -1]}, "the field 'input_ids' holds a negative number"),
        ({"input_ids": [5], "labels": []}, "the field 'labels' has not as many numbers as"),
        ({"ids": [5]}, "the record has no field 'input_ids' with a value; its fields are: ids"),
    ],
)
def test_what_is_no_sequence_of_ids(here, row, said):
    jsonl(here / "a.jsonl", {"input_ids": [5, 6]}, row)
    assert failure("a.jsonl", ids_field="input_ids").message.startswith(f"a.jsonl:2: {said}")


def test_a_sequence_without_a_token_is_empty(here):
    jsonl(here / "a.jsonl", {"input_ids": []}, {"input_ids": [5, 6]})
    assert len(read("a.jsonl", ids_field="input_ids")) == 1


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_a_text_have_its_offsets(text):
    tokenizer = byte_level()
    encoded = tokenizer(text, return_offsets_mapping=True)
    spelled, offsets = decode_tokens(encoded["input_ids"], tokenizer)
    assert spelled == text
    assert offsets == [tuple(span) for span in encoded["offset_mapping"]]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 339), min_size=1, max_size=40))
def test_any_ids_have_offsets_that_cover_their_text(ids):
    text, offsets = decode_tokens(ids, byte_level())
    assert len(offsets) == len(ids)
    covered = 0
    for start, end in offsets:
        assert start <= covered
        assert start <= end <= len(text)
        covered = max(covered, end)
    assert covered == len(text)
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
