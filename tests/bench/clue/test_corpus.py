"""Every layout of CLUE's corpora as they are downloaded, broken files among them."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from itertools import islice

import pytest

from haiftrace.bench.clue import corpus as clue_corpus
from haiftrace.bench.clue.corpus import Document, read_documents
from haiftrace.errors import CorpusError, UsageError
from tests.generators import make_clue_sample

SENTENCES = "甲一。\n甲二。\n\n乙一。\n\n\n丙一。\n丙二。\n丙三。\n"
TEXTS = ["甲一。甲二。", "乙一。", "丙一。丙二。丙三。"]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(*paths, layout="auto"):
    return [document.text for document in read_documents(paths, layout)]


@pytest.mark.parametrize(
    "content",
    [
        SENTENCES,
        SENTENCES.rstrip("\n"),
        "\n\n" + SENTENCES + "\n\n",
        SENTENCES.replace("\n", "\r\n"),
        SENTENCES.replace("\n\n", "\n  \t\n"),
        "\ufeff" + SENTENCES,
    ],
)
def test_one_sentence_a_line_and_a_blank_line_between_documents(tmp_path, content):
    assert texts(write(tmp_path / "a.txt", content)) == TEXTS


def test_a_document_knows_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", SENTENCES)
    lines = [(document.path, document.line) for document in read_documents(["a.txt"])]
    assert lines == [("a.txt", 1), ("a.txt", 4), ("a.txt", 7)]


def test_sentences_of_other_scripts_keep_a_space(tmp_path):
    path = write(tmp_path / "a.txt", "It rains.\nWe stay.\n中文。\nEnd.\n\nNext.\n")
    assert texts(path) == ["It rains. We stay.中文。End.", "Next."]


def test_one_document_a_line(tmp_path):
    path = write(tmp_path / "a.txt", "甲一。甲二。\n乙一。\n  丙一。丙二。丙三。 \n")
    assert texts(path) == TEXTS
    assert texts(path, layout="sentences") == ["".join(TEXTS)]


def test_the_layout_may_be_given(tmp_path):
    path = write(tmp_path / "a.txt", SENTENCES)
    assert texts(path, layout="documents") == [
        "甲一。",
        "甲二。",
        "乙一。",
        "丙一。",
        "丙二。",
        "丙三。",
    ]
    with pytest.raises(UsageError, match="No such layout"):
        texts(path, layout="paragraphs")


def test_one_file_with_blank_lines_tells_the_layout_of_its_path(tmp_path):
    """A file with a single document has no blank line to tell by."""
    write(tmp_path / "c" / "a.txt", "一。\n二。\n")
    write(tmp_path / "c" / "b.txt", SENTENCES)
    write(tmp_path / "lines.txt", "三。\n四。\n")
    assert texts(str(tmp_path / "c")) == ["一。二。", *TEXTS]
    assert texts(str(tmp_path / "c"), str(tmp_path / "lines.txt")) == [
        *("一。二。", "三。", TEXTS[0], "四。", *TEXTS[1:])
    ]


def test_the_four_folders_of_cluecorpussmall_take_turns(tmp_path):
    for folder in ("comments", "news", "webtext", "wiki"):
        documents = [
            f"{folder}{i}甲。\n{folder}{i}乙。" for i in range(3 if folder == "news" else 2)
        ]
        write(tmp_path / "clue" / folder / "0001.txt", "\n\n".join(documents[:1]))
        write(tmp_path / "clue" / folder / "0002.txt", "\n\n".join(documents[1:]) + "\n\n末。\n")
    documents_read = texts(str(tmp_path / "clue"))
    assert documents_read[:4] == [
        f"{f}0甲。{f}0乙。" for f in ("comments", "news", "webtext", "wiki")
    ]
    assert documents_read[4].startswith("comments1")
    assert len(documents_read) == 13
    assert documents_read[-1] == "末。"


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("field", ["text", "content"])
def test_jsonl_with_text_or_content(tmp_path, suffix, field):
    rows = [{"id": i, "title": "题", field: text, "star": 3} for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(row, ensure_ascii=i > 0) + "\n" for i, row in enumerate(rows))
    assert texts(write(tmp_path / f"a{suffix}", lines)) == TEXTS


def test_text_goes_before_content_and_empty_documents_are_left_out(tmp_path):
    rows = [
        {"text": "甲", "content": "乙"},
        {"text": "", "content": "丙"},
        {"text": None, "content": "丁"},
        {"text": " \n "},
        {"content": ""},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert texts(path) == ["甲", "丙", "丁"]


def test_compressed_files_and_globs(tmp_path):
    write(tmp_path / "a.txt.gz", gzip.compress(SENTENCES.encode()))
    write(tmp_path / "b.jsonl.gz", gzip.compress(json.dumps({"text": "丁"}).encode()))
    assert sorted(texts(str(tmp_path / "*.gz"))) == sorted([*TEXTS, "丁"])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", "好。\n\n".encode() + "坏。".encode("gb18030") + b"\n", "a.txt:3: invalid UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl:2: malformed JSON"),
        ("a.jsonl", b'["a"]\n', "a.jsonl:1: no object"),
        ("a.jsonl", b'{"title": "a"}\n', "a.jsonl:1: no string in a field 'text' or 'content'"),
        ("a.jsonl", b'{"text": 7}\n', "a.jsonl:1: no string in a field"),
        ("a.jsonl", b'{"content": ["a"]}\n', "a.jsonl:1: no string in a field"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1: half a surrogate pair"),
        ("a.json", b'[{"text": "a"}, {]', "malformed JSON"),
        ("a.txt.gz", b"\x1f\x8bnonsense", "cannot be read"),
        ("a.txt", b"", "holds? no document"),
        ("a.txt", b"\n  \n\t\n", "holds? no document"),
        ("a.jsonl", b'{"text": ""}', "holds? no document"),
        ("a.xls", b"x", "no known corpus suffix"),
    ],
)
def test_broken_files(tmp_path, name, content, what):
    with pytest.raises(CorpusError, match=what) as caught:
        texts(write(tmp_path / name, content))
    assert caught.value.hint
    assert "坏" not in caught.value.message


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(CorpusError, match="no file or directory"):
        texts(str(tmp_path / "none"))
    with pytest.raises(CorpusError, match="holds no corpus file"):
        texts(str(tmp_path))


def test_documents_before_a_broken_line_are_given(tmp_path):
    path = write(tmp_path / "a.txt", SENTENCES.encode() + b"\n\xff\n")
    assert [d.text for d in islice(read_documents([path]), 2)] == TEXTS[:2]
    with pytest.raises(CorpusError, match="invalid UTF-8") as caught:
        texts(path)
    assert "iconv" in caught.value.hint


# The sample that ships


def test_the_sample_that_ships_is_what_its_templates_give():
    documents = make_clue_sample.sample_documents()
    shipped = resources.files("haiftrace.bench.clue").joinpath(clue_corpus.SAMPLE).read_bytes()
    assert shipped.decode() == make_clue_sample.sample_text(documents)
    assert len(shipped) <= 60_000


def test_the_sample_is_many_different_documents_of_chinese():
    documents = list(read_documents([]))
    assert len(documents) >= 100
    assert len({document.text for document in documents}) == len(documents)
    assert documents[0].path.endswith("clue_sample.txt")
    assert documents == sorted(documents, key=lambda document: document.line)
    text = "".join(document.text for document in documents)
    assert not set(text) & set("{}abcdefghijklmnopqrstuvwxyz \n")
    assert isinstance(documents[0], Document)


def test_a_numbered_word_differs_from_its_like():
    for sentences in make_clue_sample.sample_documents(seed=9, count=8):
        for sentence in sentences:
            if "一半是" in sentence:
                first, second = sentence.removesuffix("。").split("一半是")[1:]
                assert first.removesuffix("，另") != second
