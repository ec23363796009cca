"""Records are added to a complete index and taken out of it, and what changed outside is listed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from haiftrace.engine import DirectGradients
from haiftrace.index import plan
from haiftrace.store import Index
from tests import kit
from tests.index.index_kit import files, vectors, windows
from tests.kit import ANSWER, PROMPT, cli, refused
from tests.tiny_models import SENTENCES

EARLY, LATE = SENTENCES[:8], SENTENCES[8:]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An index of the first sentences, and a file with the others."""
    kit.write_corpus(tmp_path / "data.jsonl", EARLY)
    with (tmp_path / "more.jsonl").open("w") as lines:
        for number, text in enumerate(LATE, len(EARLY)):
            lines.write(json.dumps({"id": f"r{number}", "text": text}) + "\n")
    made = index(tmp_path, "--model", kit.checkpoint_path(), "--corpus", "data.jsonl", calibrate=0)
    assert made.code == 0, made.err
    return tmp_path


def index(place: Path, *arguments: object, calibrate: int | None = None) -> kit.Outcome:
    number = () if calibrate is None else ("--calibrate", calibrate)
    layout = kit.SMALL_OPTIONS if "--model" in arguments else ()
    return cli("index", "-o", place / "index", *arguments, *layout, *number, cwd=place)


def verify(place: Path) -> kit.Outcome:
    return cli("index", "--verify", place / "index", cwd=place)


def trace(place: Path, *options: object) -> kit.Outcome:
    where = ("--index", place / "index", "-o", "-")
    return cli("trace", PROMPT, "--response", ANSWER, *where, *options, "-q", cwd=place)


def ids(outcome: kit.Outcome) -> set[str]:
    assert outcome.code == 0, outcome.err
    return {record["id"] for record in outcome.report["findings"][0]["records"]}


# Adding.


def test_appended_records_are_traced_with_the_others(place):
    added = index(place, "--append", "more.jsonl")
    assert added.code == 0, added.err
    assert f"Added {len(LATE)} records" in added.err
    assert "Calibrated layerwise" in added.err
    assert ids(trace(place, "--top", "100", "--all")) == {f"r{n}" for n in range(len(SENTENCES))}
    assert verify(place).code == 0
    again = index(place, "--append", "more.jsonl", calibrate=0)
    assert "has the records of these files already" in again.err
    # The same command as before is not upset by what came later.
    same = index(*(place, "--model", kit.checkpoint_path(), "--corpus", "data.jsonl"), calibrate=0)
    assert "is complete already" in same.err
    (place / "more.jsonl").write_text("")
    refused(trace(place), "another corpus", code=3)


def test_an_interrupted_appending_goes_on_to_the_same_bits(place, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(plan, "READ_AHEAD", 1)
    monkeypatch.setattr(plan, "SHARD_WORK", {"cpu": 0.0})
    again = Path(shutil.copytree(place, tmp_path_factory.mktemp("again") / "place"))
    before = windows(place / "index")
    compute = DirectGradients.measures
    calls = []

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DirectGradients, "measures", counted)
        assert index(place, "--append", "more.jsonl", calibrate=0).code == 130
    assert [w.id for w in windows(place / "index")] == [w.id for w in before]
    assert ids(trace(place, "--all")) <= {w.id for w in before}
    resumed = index(place, "--append", "more.jsonl", calibrate=0)
    assert "Going on after 2 records" in resumed.err
    after = windows(place / "index")
    assert [window.record for window in after] == list(range(len(SENTENCES)))
    assert not (place / "index/.appending").exists()
    resumed_vectors = vectors(place / "index")
    assert index(again, "--append", "more.jsonl", calibrate=0).code == 0
    np.testing.assert_array_equal(vectors(again / "index"), resumed_vectors)
    for one, other in zip(windows(again / "index"), after, strict=True):
        np.testing.assert_array_equal(one.token_loss, other.token_loss)
        np.testing.assert_array_equal(one.token_grad_norm, other.token_grad_norm)


def test_a_record_that_is_there_is_not_added_twice(place):
    with (place / "more.jsonl").open("a") as lines:
        lines.write(json.dumps({"id": "r2", "text": "Something else of the same id."}) + "\n")
    before = files(place / "index")
    refused(index(place, "--append", "more.jsonl"), "has an id that the index", "more.jsonl:5")
    assert files(place / "index") == before


# Taking out.


def test_a_deletion_request(place):
    (place / "ids.txt").write_text("r0\n\nr3\nnobody\n")
    guilty = ids(trace(place, "--top", "100", "--all"))
    assert {"r0", "r3"} <= guilty
    masked = index(place, "--drop-ids", "ids.txt")
    assert masked.code == 0, masked.err
    assert "Masked 2 records" in masked.err
    assert "line 4 of ids.txt" in masked.err
    assert ids(trace(place, "--top", "100", "--all")) == guilty - {"r0", "r3"}
    assert verify(place).code == 0
    # The corpus is edited before the index is compacted.
    lines = (place / "data.jsonl").read_text().splitlines(keepends=True)
    (place / "data.jsonl").write_text(
        "".join(line for n, line in enumerate(lines) if n not in (0, 3))
    )
    refused(trace(place), "another corpus", code=3)
    listed = verify(place)
    assert listed.code == 3
    assert "with the same text at another place" in listed.out
    compacted = index(place, "--compact", calibrate=64)
    assert compacted.code == 0, compacted.err
    assert "Removed 2 records from every file" in compacted.err
    assert "belongs to its corpus as it is now" in compacted.err
    assert verify(place).code == 0
    outcome = trace(place, "--top", "100", "--all")
    assert ids(outcome) == guilty - {"r0", "r3"}
    lines_now = {window.id: window.line for window in windows(place / "index")}
    assert lines_now["r1"] == 1
    assert lines_now["r7"] == 6


def test_masked_at_once_and_compacted_in_one_command(place):
    (place / "ids.txt").write_text("r5\n")
    assert index(place, "--drop-ids", "ids.txt", "--compact").code == 0
    names = [window.id for window in windows(place / "index")]
    assert names == [f"r{n}" for n in range(8) if n != 5]
    # The record is in the corpus still, and its index is not stale for that.
    assert trace(place).code == 0


def test_ids_that_nothing_has(place):
    (place / "ids.txt").write_text("nobody\n")
    refused(index(place, "--drop-ids", "ids.txt"), "No record of the index")
    (place / "ids.txt").write_text("")
    refused(index(place, "--drop-ids", "ids.txt"), "is empty")
    refused(index(place, "--drop-ids", "nowhere.txt"), "cannot be read")


# Verifying.


def test_what_changed_in_the_corpus_is_listed_by_id(place):
    lines = (place / "data.jsonl").read_text().splitlines()
    content = json.loads(lines[2])
    lines[2] = json.dumps({**content, "text": content["text"] + " And more."})
    del lines[6]
    lines.append(json.dumps({"id": "new\x1b[31m", "text": "Added by somebody since then."}))
    (place / "data.jsonl").write_text("\n".join(lines))
    outcome = verify(place)
    assert outcome.code == 3
    for line in ("1 changed: r2", "1 missing: r6", "1 added: new^[[31m"):
        assert line in outcome.out, outcome.out
    for secret in (*kit.SECRETS, "And more", "Added by"):
        assert secret not in outcome.out
    assert "sample" in outcome.out
    assert "computed again" in outcome.out


def test_every_damaged_file_is_listed(place):
    for name in ("tokens.faiss", "supplements/whitening/00000.safetensors"):
        file = place / "index" / name
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    outcome = verify(place)
    assert outcome.code == 3
    assert "2 of " in outcome.out
    assert "tokens.faiss does not match" in outcome.out
    assert "whitening/00000.safetensors does not match" in outcome.out


def test_numbers_that_the_engine_does_not_confirm(place, monkeypatch):
    compute = DirectGradients.measures

    def other(self, batch, dimension, seed):
        return compute(self, batch, dimension, seed + 1)

    monkeypatch.setattr(DirectGradients, "measures", other)
    outcome = verify(place)
    assert outcome.code == 3
    assert "of the bits agree" in outcome.out
    assert "BAD" in outcome.out


@pytest.mark.parametrize("missing", ["data.jsonl", "checkpoint"])
def test_what_cannot_be_looked_at_is_not_confirmed(place, missing, tmp_path):
    if missing == "checkpoint":
        outcome = cli("index", "--verify", place / "index", "--model", tmp_path / "nowhere")
    else:
        (place / missing).unlink()
        outcome = verify(place)
    assert outcome.code == 3
    assert "There is no" in outcome.out


def test_another_checkpoint(place, tmp_path):
    other = kit.copied_checkpoint(tmp_path / "other", "llama")
    outcome = cli("index", "--verify", place / "index", "--model", other)
    assert outcome.code == 3
    assert "another checkpoint" in outcome.out


def test_there_is_nothing_to_verify(tmp_path):
    refused(cli("index", "--verify", tmp_path), "not an index")
    kit.misused(cli("index", "--verify", tmp_path, "--compact"), "--verify")
    kit.misused(cli("index", "--append", "x", "--corpus", "y"), "--append")


# The output directory.


def test_parents_are_private(tmp_path):
    made = cli(
        *("index", "--model", kit.checkpoint_path(), "--corpus", kit.corpus_path()),
        *("-o", tmp_path / "a/b/index", *kit.SMALL_OPTIONS, "--calibrate", 0),
    )
    assert made.code == 0, made.err
    for directory in ("a", "a/b", "a/b/index"):
        assert stat.S_IMODE((tmp_path / directory).stat().st_mode) == 0o700


def test_a_path_that_is_not_utf8_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("haiftrace.checkpoint.load.load_checkpoint", None)
    path = os.fsdecode(bytes(tmp_path) + b"/\xff\xfe")
    options = ("--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    refused(cli("index", *options, "-o", path), "is not valid UTF-8")
    refused(cli("trace", PROMPT, "--index", path), "is not valid UTF-8")
    assert not list(tmp_path.iterdir())


def test_control_characters_in_the_path_are_shown_inert(tmp_path):
    path = tmp_path / "a\x1b[31mb\x07"
    options = ("--model", kit.checkpoint_path(), "--corpus", kit.corpus_path())
    made = cli("index", *options, "-o", path, *kit.SMALL_OPTIONS, "--calibrate", 0)
    assert made.code == 0, made.err
    verified = cli("index", "--verify", path)
    for text in (made.err, verified.out, verified.err):
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "a^[[31mb^G" in made.err
    with Index.open(path) as opened:
        assert len(opened)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "architectures", float("inf")),
        ("config.json", "architectures", [7]),
        ("tokenizer_config.json", "model_max_length", "x"),
        ("tokenizer_config.json", "model_max_length", [1]),
    ],
)
def test_a_checkpoint_setting_of_another_type_is_named(tmp_path, name, key, value):
    path = kit.copied_checkpoint(tmp_path / "model")
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**content, key: value}))
    options = ("--corpus", kit.corpus_path(), "-o", tmp_path / "index")
    refused(cli("index", "--model", path, *options), f"{name} of", f"{key} is not")
    assert not (tmp_path / "index").exists()
