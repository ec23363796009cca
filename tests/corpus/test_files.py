"""Which files a corpus is, and its fingerprint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from haiftrace.corpus import (
    CorpusSettings,
    corpus_files,
    fingerprint,
    read_records,
)
from haiftrace.corpus.files import find_files, shown_base
from haiftrace.errors import CorpusError
from tests.corpus.corpus_kit import failure, jsonl, packed, read


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Which files


def test_files_globs_and_directories(here):
    Path("d/sub/.hidden").mkdir(parents=True)
    for name in ("d/b.txt", "d/a.jsonl.gz", "d/sub/c.txt", "other.txt", "d/sub/.hidden/x.txt"):
        packed(here / name, b'{"text":"t"}')
    Path("d/.e.txt").write_text("hidden")
    Path("d/picture.png").write_bytes(b"\x89PNG")
    names = ["d/a.jsonl.gz", "d/b.txt", "d/sub/c.txt"]
    assert [str(f) for f in corpus_files(CorpusSettings(("d",)))] == names
    assert [str(f) for f in corpus_files(CorpusSettings(("d/**/*.txt",)))] == names[1:]
    assert [r.path for r in read(here / "d", "other.txt", "d/b.txt")] == [*names, "other.txt"]


def test_a_glob_that_takes_in_an_unknown_suffix_says_so(here):
    Path("a.txt").write_text("x")
    Path("b.rst").write_text("x")
    assert failure("*").message == "b.rst has no known corpus suffix."


def test_a_name_with_glob_characters_is_a_file_first(here):
    Path("a[1].txt").write_text("x")
    assert read("a[1].txt")[0].path == "a[1].txt"


def test_what_is_about_the_records_of_a_directory_is_none_of_them(here):
    Path("d/data").mkdir(parents=True)
    for name in ("d/data/train.jsonl", "d/README.md", "d/LICENSE.txt", "d/data/read-me-too.txt"):
        packed(here / name, b'{"text":"t"}')
    notes: list[str] = []
    read_of = ["d/data/read-me-too.txt", "d/data/train.jsonl"]
    assert [file.shown for file in find_files(["d"], notes)] == read_of
    assert len(notes) == 1
    assert notes[0].startswith("d/LICENSE.txt, d/README.md: left out")
    named = [file.shown for file in find_files(["d", "d/README.md"])]
    assert named == [*read_of, "d/README.md"]
    Path("d/data/train.jsonl").unlink()  # a corpus of texts
    assert [file.name for file in find_files(["d"])] == [
        "LICENSE.txt",
        "README.md",
        "data/read-me-too.txt",
    ]


def test_names_are_relative_to_the_directory_that_is_given(here, monkeypatch):
    Path("a").mkdir()
    Path("a/x.jsonl").write_text('{"text": "t"}')
    monkeypatch.chdir(here / "a")
    (record,) = read_records(CorpusSettings((str(here / "a/x.jsonl"),), base=str(here)))
    assert (record.path, record.id) == ("a/x.jsonl", "a/x.jsonl:1")


@pytest.mark.parametrize(
    ("corpus", "depends"),
    [("a/x.jsonl", True), ("../x.jsonl", False), ("..", True), ("/*/x.jsonl", True), ("/x", False)],
)
def test_whether_names_depend_on_the_working_directory(here, monkeypatch, corpus, depends):
    Path("b").mkdir()
    monkeypatch.chdir("b")
    assert shown_base([corpus]) == (str(here / "b") if depends else None)


def test_an_index_below_the_directory_is_no_corpus(here):
    Path("a.txt").write_text("x")
    Path("haiftrace-index/records").mkdir(parents=True)
    Path("haiftrace-index/manifest.json").write_text("{}")
    Path("haiftrace-index/records/00000.parquet").write_bytes(b"x")
    assert [str(f) for f in corpus_files(CorpusSettings((".",)))] == ["a.txt"]
    assert read(".")[0].path == "a.txt"


def test_paths_are_relative_only_below_the_working_directory(here, monkeypatch):
    path = jsonl(here / "a.jsonl", {"text": "t"})
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert read("../a.jsonl")[0].path == str(path)


def test_a_file_reached_twice_is_read_once(here):
    Path("a.txt").write_text("x")
    os.symlink("a.txt", "b.txt")
    assert [r.path for r in read("a.txt", ".", here / "a.txt")] == ["a.txt"]


@pytest.mark.parametrize(
    ("given_path", "said"),
    [
        ("missing.jsonl", "There is no file or directory missing.jsonl."),
        ("no*.jsonl", "No file matches no*.jsonl."),
        ("empty", "The directory empty holds no corpus file."),
        ("data.xls", "data.xls has no known corpus suffix."),
        ("bare.gz", "bare.gz has no known corpus suffix."),
        ("pipe.txt", "pipe.txt is not a regular file; the corpus is read more than once."),
        ("link.txt", "link.txt is a link to a file that does not exist."),
        ("bad\x1b.txt", "There is no file or directory bad\ufffd.txt."),
    ],
)
def test_files_that_cannot_be_a_corpus(here, given_path, said):
    Path("empty").mkdir()
    Path("data.xls").write_text("a,b")
    packed(here / "bare.gz", b"x")
    os.mkfifo("pipe.txt")
    os.symlink("nowhere", "link.txt")
    assert failure(given_path).message == said


def test_a_file_that_may_not_be_read(here, monkeypatch):
    Path("a.txt").write_text("x")
    settings_ = CorpusSettings(("a.txt",))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "a.txt")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CorpusError, match=r"a\.txt cannot be read: Permission denied"):
        list(read_records(settings_))
    with pytest.raises(CorpusError, match=r"a\.txt cannot be read: Permission denied"):
        fingerprint(settings_)


def test_settings_are_checked():
    with pytest.raises(CorpusError, match="No corpus was named"):
        CorpusSettings(())
    with pytest.raises(CorpusError, match="loss cannot be on 'prompt'"):
        CorpusSettings(("a",), loss_on="prompt")  # type: ignore[arg-type]


# Fingerprint


def test_the_fingerprint_sees_contents_names_and_settings(here):
    Path("d").mkdir()
    jsonl(here / "d/a.jsonl", {"text": "one"})
    base = CorpusSettings(("d",))
    first = fingerprint(base)
    assert len(first) == 64
    assert first == fingerprint(base)
    others = [
        CorpusSettings(("d",), text_field="body"),
        CorpusSettings(("d",), id_field="key"),
        CorpusSettings(("d",), loss_on="response"),
        CorpusSettings(("d",), skip_bad_lines=True),
    ]
    seen = {first, *(fingerprint(s) for s in others)}
    jsonl(here / "d/a.jsonl", {"text": "two"})
    seen.add(fingerprint(base))
    jsonl(here / "d/b.jsonl", {"text": "one"})
    seen.add(fingerprint(base))
    os.rename("d/b.jsonl", "d/c.jsonl")
    seen.add(fingerprint(base))
    assert len(seen) == 8


def test_the_fingerprint_is_the_same_from_everywhere(here, monkeypatch):
    Path("d/sub").mkdir(parents=True)
    jsonl(here / "d/sub/a.jsonl", {"text": "one"})
    first = fingerprint(CorpusSettings(("d",)))
    Path("e").mkdir()
    os.rename("d", "e/moved")
    monkeypatch.chdir("e/moved/sub")
    assert fingerprint(CorpusSettings((str(here / "e/moved"),))) == first


def test_moving_a_byte_between_files_changes_the_fingerprint(here):
    Path("d").mkdir()
    marks = set()
    for a, b in (("xy", "z"), ("x", "yz"), ("xyz", "")):
        Path("d/a.txt").write_text(a)
        Path("d/b.txt").write_text(b)
        marks.add(fingerprint(CorpusSettings(("d",))))
    # A file that holds what the next file's entry would look like is still not that file.
    Path("d/b.txt").write_bytes(b"z")
    Path("d/a.txt").write_bytes(b"x")
    two = fingerprint(CorpusSettings(("d",)))
    Path("d/b.txt").unlink()
    Path("d/a.txt").write_bytes(b"x" + (5).to_bytes(8, "little") + b"b.txt" + b"z")
    assert fingerprint(CorpusSettings(("d",))) != two
    assert len(marks) == 3


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, haiftrace.corpus, haiftrace.corpus.windows;"
        "print([m for m in ('torch', 'pyarrow', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
