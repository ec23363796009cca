"""CSV and TSV files: a header, cells in quotes, and what is wrong with a row."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haiftrace.corpus.formats import csv_format
from tests.corpus.corpus_kit import SECRET, failure, packed, read


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_cells_in_quotes_hold_anything(here, suffix, comma, codec):
    lines = [
        "id,text,note",
        'a,"one\r\ntwo, ""three""",',
        "",
        "b,\t é😀 ,x",
        'c,"","n"',
        "d,last,y",
    ]
    if comma == "\t":
        lines = [line.replace("\t", " ").replace(",", "\t") for line in lines]
        lines[1] = lines[1].replace("two\t", "two,")
    data = "\ufeff" + "\r\n".join(lines)
    records = read(packed(here / f"a{suffix}{codec}", data.encode()))
    assert [(r.id, r.line) for r in records] == [("a", 2), ("b", 5), ("d", 7)]
    assert records[0].text == 'one\r\ntwo, "three"'
    assert records[1].text == ("\t é😀 " if comma == "," else "  é😀 ")


def test_the_layouts_of_other_files_are_those_of_columns(here):
    Path("a.csv").write_text("instruction,input,output\nSay it,,done\n")
    assert read("a.csv", loss_on="response")[0].text.endswith("### Response:\ndone")
    Path("b.csv").write_text("prompt,completion\nQ,A\n")
    assert read("b.csv", loss_on="response")[0].loss_spans == ((1, 2),)
    Path("c.tsv").write_text("q\ta\nWho?\tMe\n")
    assert read("c.tsv", text_template="{q} {a}")[0].text == "Who? Me"
    assert read("c.tsv", text_field="a")[0].text == "Me"


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5),
    comma=st.sampled_from([",", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_standard_library_writes_is_read(texts, comma, quoting, end):
    texts = ["first", *texts]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=comma, quoting=quoting, lineterminator=end)
    writer.writerow(["n", "text"])
    writer.writerows(enumerate(texts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.csv" if comma == "," else "a.tsv")
        path.write_bytes(file.getvalue().encode())
        assert [r.text for r in read(path)] == texts


BAD = {
    "3 cells under a header of 2": b"555-0199,b,c\n",
    "1 cells under a header of 2": b"555-0199\n",
    "invalid UTF-8 (byte 9 of line 3)": b"555-0199\xff,b\n",
}


@pytest.mark.parametrize("said", BAD)
def test_bad_rows_are_errors_or_counted(here, said):
    Path("a.csv").write_bytes(b"text,id\ngood,1\n" + BAD[said] + b"more,2\n")
    assert failure("a.csv").message == f"a.csv:3: {said}."
    assert [r.text for r in read("a.csv", skip_bad_lines=True)] == ["good", "more"]


def test_a_quote_that_is_never_closed(here, monkeypatch):
    Path("a.csv").write_text(f'text\ngood\n"{SECRET}\nmore\n')
    assert failure("a.csv").message == "a.csv:3: a quote that is never closed."
    monkeypatch.setattr(csv_format, "MAX_ROW_BYTES", 100)
    Path("a.csv").write_text(f'text\ngood\n"{SECRET}\n' + "more\n" * 100)
    assert failure("a.csv", skip_bad_lines=True).message == "a.csv:3: a row of more than 100 bytes."
    Path("a.csv").write_text("text\n" + "x" * 101)
    assert failure("a.csv").message == "a.csv:2: a row of more than 100 bytes."


def test_a_cell_beyond_the_standard_librarys_limit(here):
    Path("a.csv").write_text("text\n" + "x" * 200_000)
    assert len(read("a.csv")[0].text) == 200_000


def test_a_file_without_a_header_is_not_quoted(here):
    Path("a.csv").write_text(f"Wanda,{SECRET}\nTobin,555-0100\n")
    error = failure("a.csv")
    assert error.message.endswith("with a value; the first line of the file names 2 columns.")
    assert "head -n 1 a.csv" in error.hint
    Path("a.csv").write_text(f"{SECRET},{SECRET}\nTobin,555-0100\n")
    assert "columns 1 and 2 of the header have the same name" in failure("a.csv").message
    Path("a.csv").write_bytes(b"\xff\nx")
    assert failure("a.csv").message.startswith("a.csv:1: invalid UTF-8")


@pytest.mark.parametrize("data", ["", "\ufeff", "text,id\n", "text,id\n\n\n"])
def test_an_empty_table(here, data):
    Path("a.csv").write_text(data, "utf-8")
    assert failure("a.csv").message == "The corpus is empty: its files hold no record."
