"""Other libraries in `bench speed`: each runs on the same records, and none can fail the bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from haiftrace.bench.speed.clock import ProcessFailure
from haiftrace.bench.speed.models import find_model
from haiftrace.bench.speed.peers import (
    DISTRIBUTIONS,
    NOT_INSTALLED,
    PEERS,
    absent_peer,
    measure_peer,
    peer_versions,
    short_failure,
)
from haiftrace.errors import UsageError
from tests.bench.speed.interpreters import interpreter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_model("tiny", tmp_path_factory.mktemp("peers") / "model").path


# Writes down what it is started with, and leaves a file of 2 MiB where its results go.
RECORDING = """
log = Path(__file__).with_name("log.jsonl")
script = argv[0] != "-m"
out = Path(argv[3])
out.mkdir(exist_ok=True)
(out / "file").write_bytes(bytes(2 << 20))
datasets = [argv[2]] if script else [argv[argv.index("--dataset") + 1]]
lines = [len(Path(dataset).read_text().splitlines()) for dataset in datasets]
with log.open("a") as stream:
    stream.write(json.dumps({"argv": argv, "records": lines[0]}) + "\\n")
"""


def measured(name: str, python: str, model: Path, directory: Path) -> Mapping[str, Any]:
    directory.mkdir()
    return measure_peer(name, python, model, 16, 5, 1, directory)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_goes_over_the_records(name: str, model: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", {}, RECORDING)
    row = measured(name, python, model, tmp_path / "work")
    assert (row["records"], row["tokens"]) == (5, 16)
    assert row["megabytes"] == 2, "what it keeps, without its set-up"
    assert min(row[key] for key in ("cpu_seconds", "wall_seconds", "peak_megabytes")) > 0
    commands = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert commands[-1]["records"] == 5
    assert str(model) in commands[-1]["argv"]
    assert len(commands) == (2 if "set_up" in row else 1)


def test_bergson_scores_against_a_query_that_it_built_before(model: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", {}, RECORDING)
    row = measured("bergson-score", python, model, tmp_path / "work")
    built, scored = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (built["argv"][:3], built["records"]) == (["-m", "bergson", "build"], 1)
    assert (scored["argv"][:3], scored["records"]) == (["-m", "bergson", "score"], 5)
    assert scored["argv"][scored["argv"].index("--query_path") + 1] == built["argv"][3]
    assert row["set_up"]["wall_seconds"] > 0


def test_a_set_up_that_fails_is_the_peers_failure(model: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", {}, "sys.exit('no such model')")
    row = measured("bergson-score", python, model, tmp_path / "work")
    assert row["error"] == "no such model"
    assert "cpu_seconds" not in row


@pytest.mark.parametrize(
    ("printed", "status", "shown"),
    [
        ("Traceback\nValueError: no rule for Conv1D\n", 1, "ValueError: no rule for Conv1D"),
        ("OSError: /home/me/models/ckpt/x.bin is gone", 1, "OSError: x.bin is gone"),
        ("see https://example.org/a/b", 1, "see https://example.org/a/b"),
        ("No module named 'a'\n\n", 1, "No module named 'a'"),
        ("", 3, "status 3, no message"),
        ("Map: 40 %", -9, "ended by signal 9"),
        ("word " * 40, 1, "word " * 15 + "word…"),
    ],
)
def test_a_failure_in_a_few_words(printed: str, status: int, shown: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(printed)
    short = short_failure(ProcessFailure(["python"], status, tmp_path / "log"))
    assert short == shown
    assert len(short) <= 80


def test_versions_are_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bergson-2.5.1.dist-info").mkdir()
    (tmp_path / "bergson-2.5.1.dist-info" / "METADATA").write_text("Name: bergson\nVersion: 2.5.1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    absent = {name: None for name in DISTRIBUTIONS}
    assert peer_versions(str(python)) == {**absent, "bergson": "2.5.1"}
    assert absent_peer("kronfluence", 16, 5)["error"] == NOT_INSTALLED


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho words\n", "\0"])
def test_an_interpreter_that_is_none(program: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(program)
    python.chmod(0o755)
    with pytest.raises(UsageError, match="--peer-python"):
        peer_versions(str(python))
