"""Parts of an index, made by jobs that know nothing of each other, and put together."""

from __future__ import annotations

import json
import shutil

import pytest

from haiftrace.index import plan
from haiftrace.index.parts import Part
from haiftrace.store import IndexWriter
from tests import kit
from tests.index.index_kit import complete_content
from tests.kit import cli, misused, refused


def index(*options):
    return cli("index", *options, "--device", "cpu", cwd=kit.scratch("."))


def arguments(output, *more):
    sources = ("--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    return (*sources, "-o", output, *kit.SMALL_OPTIONS, "--shard-records", "2", *more)


@pytest.fixture(autouse=True, scope="module")
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "READ_AHEAD", 2)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plain index, and the same in three parts."""
    root = tmp_path_factory.mktemp("parts")
    assert index(*arguments(root / "plain", "--calibrate", "8")).code == 0
    for number in (3, 1, 2):
        outcome = index(*arguments(root / f"part-{number}", "--part", f"{number}/3"))
        assert outcome.code == 0, outcome.err
        assert f"Part {number} of 3 is in" in outcome.err
        assert "Calibrated" not in outcome.err
    return root


@pytest.fixture
def parts(made, tmp_path):
    """Parts that a test may spoil."""
    for number in (1, 2, 3):
        shutil.copytree(made / f"part-{number}", tmp_path / f"part-{number}")
    return tmp_path


def merge(parts, *more):
    return index("--merge", parts / "part-*", "-o", parts / "index", *more)


def test_parts_put_together_are_the_same_index(made, parts):
    outcome = merge(parts, "--calibrate", "8")
    assert outcome.code == 0, outcome.err
    assert "Calibrated layerwise" in outcome.err
    assert complete_content(parts / "index") == complete_content(made / "plain")
    again = merge(parts, "--calibrate", "8")
    assert "is complete already" in again.err
    assert complete_content(parts / "index") == complete_content(made / "plain")


def test_putting_together_goes_on_after_an_interrupt(made, parts, monkeypatch):
    add, added = IndexWriter.add_shard, []

    def interrupted(self, staged):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(staged.entry.number)
        add(self, staged)

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "add_shard", interrupted)
        assert merge(parts).code == 130
    seen = []
    monkeypatch.setattr(
        IndexWriter, "add_shard", lambda w, s: (seen.append(s.entry.number), add(w, s))
    )
    assert merge(parts, "--calibrate", "8").code == 0
    assert not {*added} & {*seen}
    assert complete_content(parts / "index") == complete_content(made / "plain")


def test_a_part_is_no_index(made):
    outcome = cli("trace", "x", "--response", " y", "--index", made / "part-1")
    refused(outcome, "is a part of an index")


def test_a_part_goes_on_and_is_no_other_part(made, parts):
    content = json.loads((parts / "part-2/manifest.json").read_text())
    (parts / "part-2" / content["shards"][-1]["records"]["file"]).unlink()
    refused(merge(parts), "The part is damaged", code=3)
    outcome = index(*arguments(parts / "part-2", "--part", "2/3"))
    assert "Going on after" in outcome.err
    refused(index(*arguments(parts / "part-2", "--part", "1/3")), "holds another index: part")
    assert merge(parts, "--calibrate", "8").code == 0
    assert complete_content(parts / "index") == complete_content(made / "plain")


def test_more_parts_than_files(made, tmp_path):
    count = len(json.loads((made / "plain/manifest.json").read_text())["shards"]) + 2
    for number in range(1, count + 1):
        outcome = index(*arguments(tmp_path / f"part-{number}", "--part", f"{number}/{count}"))
        assert outcome.code == 0, outcome.err
    assert merge(tmp_path, "--calibrate", "8").code == 0
    assert complete_content(tmp_path / "index") == complete_content(made / "plain")


# What does not fit together


def test_a_missing_part_is_named(parts):
    shutil.rmtree(parts / "part-2")
    refused(merge(parts), "Of 3 parts, there is no part 2")
    assert not (parts / "index").exists()


def test_an_unfinished_part_is_named(parts):
    kit.edit_manifest(parts / "part-3", lambda c: _without_last(c))
    refused(merge(parts), "part 3 of 3", "is unfinished: 1 of its")


def _without_last(content):
    shard = content["shards"].pop()
    for key, value in (
        ("records", shard["record_count"]),
        ("windows", shard["records"]["rows"]),
        ("label_tokens", shard["label_tokens"]),
    ):
        content["totals"][key] -= value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", "1"), "seed 0 there and 1 now"),
        (("--shard-records", "3"), "shard_records 2 there and 3 now"),
        (("--context", "8"), "context"),
    ],
)
def test_parts_of_other_settings_do_not_fit(parts, options, words):
    shutil.rmtree(parts / "part-3")
    assert index(*arguments(parts / "part-3", "--part", "3/3", *options)).code == 0
    refused(merge(parts), "are not parts of one index", words)


def test_parts_of_another_corpus_or_number_do_not_fit(parts):
    corpus = kit.write_corpus(
        parts / "other.jsonl", ["Another text of a few words."] * 3, ids=False
    )
    options = ("--corpus", corpus, "-o", parts / "part-3", *kit.SMALL_OPTIONS)
    shutil.rmtree(parts / "part-3")
    made = index("--model", kit.checkpoint_path(), *options, "--part", "3/3")
    assert made.code == 0, made.err
    refused(merge(parts), "are not parts of one index", "other corpus")
    shutil.rmtree(parts / "part-3")
    assert index(*arguments(parts / "part-3", "--part", "3/4")).code == 0
    refused(merge(parts), "3 parts there and 4 here")
    shutil.rmtree(parts / "part-3")
    shutil.copytree(parts / "part-1", parts / "part-9")
    refused(merge(parts), "are both part 1 of 3")


def test_a_directory_that_is_no_part(made, parts):
    refused(index("--merge", made / "plain", "-o", parts / "index"), "is no part of an index")
    refused(index("--merge", parts / "none*", "-o", parts / "index"), "There is no directory")
    both = ("--merge", parts / "part-*", "-o", parts / "part-1", "--overwrite")
    refused(index(*both), "cannot be what the parts are put together in")


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/", "-1/3", "1/3/5", "²/3"])
def test_what_is_no_part(text, tmp_path):
    refused(index(*arguments(tmp_path / "p", "--part", text)), "is no part of an index")


def test_options_that_exclude_each_other(tmp_path):
    misused(index("--merge", "a", "--workers", "2"), "--merge", "--workers")
    misused(index("--merge", "a", "--corpus", "b"), "--merge", "--corpus")
    misused(index(*arguments(tmp_path / "p", "--part", "1/2", "--calibrate", "9")), "calibrate")
    misused(index("--append", "x", "--part", "1/2"), "--part")


def test_a_glob_that_the_shell_expanded_is_explained():
    outcome = cli("index", "--merge", "part-1", "part-2", "-o", "index")
    misused(outcome, "extra argument")
    assert "Hint: --merge takes one name" in outcome.err


def test_records_have_the_paths_of_one_directory(tmp_path):
    """Whether they were made at once, in parts or after an interrupt; reading does not depend."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    corpus = kit.write_corpus(tmp_path / "here/corpus.jsonl", ids=False)

    def run(folder, *options):
        return cli("index", *options, "--device", "cpu", cwd=tmp_path / folder)

    def part(number, folder, name):
        sources = ("--model", kit.checkpoint_path(), "--corpus", name)
        rest = ("-o", tmp_path / f"part-{number}", *kit.SMALL_OPTIONS, "--shard-records", "2")
        return run(folder, *sources, *rest, "--part", f"{number}/2")

    for number in (1, 2):
        outcome = part(number, "here", "corpus.jsonl")
        assert outcome.code == 0, outcome.err
    assert part(2, "here", corpus).code == 0
    refused(part(2, "there", "../here/corpus.jsonl"), "directory that records' paths begin at")
    shutil.rmtree(tmp_path / "part-2")
    assert part(2, "there", "../here/corpus.jsonl").code == 0
    merging = ("--merge", tmp_path / "part-*", "-o", tmp_path / "index", "--calibrate", "0")
    refused(run(".", *merging), "not parts of one index", "directory that records' paths begin at")
    shutil.rmtree(tmp_path / "part-2")
    assert part(2, "here", "corpus.jsonl").code == 0
    assert run(".", *merging).code == 0
    first, *others = corpus.read_text().splitlines()
    changed = json.dumps({"text": json.loads(first)["text"] + " Or not."})
    corpus.write_text("\n".join([changed, *others]) + "\n")
    verified = run("there", "--verify", tmp_path / "index")
    assert verified.code == 3
    assert "corpus.jsonl:1" in verified.out
    assert "corpus.jsonl:2" not in verified.out


def test_a_complete_index_is_the_same_from_everywhere(tmp_path):
    corpus = kit.write_corpus(tmp_path / "corpus.jsonl")
    sources = ("--model", kit.checkpoint_path(), "--corpus", corpus, "-o", tmp_path / "index")
    options = ("index", *sources, *kit.SMALL_OPTIONS, "--calibrate", "0", "--device", "cpu")
    assert cli(*options, cwd=tmp_path).code == 0
    again = cli(*options, cwd=kit.scratch("."))
    assert again.code == 0, again.err
    assert "is complete already" in again.err


def test_a_file_uri_is_a_directory(made, parts):
    uri = (parts / "a place").as_uri()
    merged = index("--merge", parts / "part-*", "-o", uri, "--calibrate", "8")
    assert merged.code == 0, merged.err
    assert complete_content(parts / "a place") == complete_content(made / "plain")
    assert cli("show", uri).code == 0


def test_every_shard_is_in_one_part():
    for count in (0, 1, 7, 40):
        for of in (1, 3, 8):
            numbers = [n for i in range(1, of + 1) for n in Part(i, of).range_of(count)]
            assert numbers == list(range(count))
