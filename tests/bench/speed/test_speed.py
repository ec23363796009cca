"""`bench speed`: what is measured is what the table says it is, and the clocks are right."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from haiftrace.bench.harness.tables import NONE
from haiftrace.bench.speed.clock import ratios, run_process, take_turns
from haiftrace.bench.speed.models import SpeedModel, find_model, write_corpus, write_probes
from haiftrace.bench.speed.operations import (
    FORWARD,
    LOOP,
    NORMS,
    STEP,
    OperationSettings,
    measure_operations,
)
from haiftrace.bench.speed.peers import NOT_INSTALLED
from haiftrace.bench.speed.processes import AUDIT, EPOCH, INDEX, TRACE
from haiftrace.bench.speed.report import speed_results
from haiftrace.bench.speed.run import SpeedOutcome, SpeedSettings, numbers, run_speed
from haiftrace.errors import HaiftraceError, UsageError
from haiftrace.progress import Silent
from tests.bench.speed.interpreters import interpreter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeedModel:
    return find_model("tiny", tmp_path_factory.mktemp("speed") / "model")


def busy(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def test_operations_take_turns_and_their_ratio_is_by_round() -> None:
    order: list[str] = []

    def operation(name: str, seconds: float) -> None:
        order.append(name)
        busy(seconds)

    operations = {"a": lambda: operation("a", 0.02), "b": lambda: operation("b", 0.06)}
    taken = take_turns(operations, CPU, rounds=3, seconds=60)
    assert order == ["a", "b"] * 4, "a round before the clock runs, then three"
    spread = ratios(taken, "b", "a")
    assert spread.least <= spread.median <= spread.greatest
    assert spread.median == pytest.approx(3, rel=0.3)


def test_no_round_begins_after_the_time_is_over() -> None:
    taken = take_turns({"a": lambda: time.sleep(0.02)}, CPU, rounds=1000, seconds=0.01)
    assert len(taken["a"]) == 1


def test_the_cost_of_a_process_is_its_own(tmp_path: Path) -> None:
    """Neither the memory of who starts it nor the time it sleeps."""
    ballast = bytearray(400 << 20)
    code = "import time; x = bytearray(100 << 20); time.sleep(0.3)"
    cost = run_process([sys.executable, "-c", code], 1, tmp_path / "log")
    assert len(ballast) > 2 * cost.peak_bytes
    assert 100 << 20 < cost.peak_bytes < 200 << 20
    assert cost.wall_seconds > 0.3 > cost.cpu_seconds


def test_a_process_that_fails_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    code = "import sys; print('no such thing'); sys.exit(4)"
    with pytest.raises(HaiftraceError, match=r"status 4: no such thing"):
        run_process([sys.executable, "-c", code], 1, tmp_path / "log")
    assert run_process([sys.executable, "-c", code], 1, tmp_path / "log", accepted=(4,))


@pytest.mark.parametrize("tokens", [16, 64])
@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen2"])
def test_records_have_the_tokens_asked_for(shape: str, tokens: int, tmp_path: Path) -> None:
    """Qwen2's too, whose text transformers splits in a way of its own."""
    model = find_model(shape, tmp_path / "model")
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(model.path, tokens, 5, corpus)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert len(set(texts)) == 5
    assert [len(tokenizer(text).input_ids) + 1 for text in texts] == [tokens] * 5
    write_probes(corpus, 7, 3, tmp_path / "probes.jsonl")
    probes = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert len(probes) == 7
    assert all(p["prompt"] + p["response"] in " ".join(texts) for p in probes)
    assert probes[0] != probes[5], "a second probe of a record begins elsewhere"


def test_operations_of_a_model(model: SpeedModel) -> None:
    settings = OperationSettings(str(model.path), 24, device="cpu", rounds=2)
    measured = measure_operations(settings)
    assert measured["records"] == 21
    weights = model.path / "model.safetensors"
    assert 4 * measured["parameters"] <= weights.stat().st_size < 4.1 * measured["parameters"]
    seconds = measured["seconds"]
    assert len(seconds[FORWARD]) == 2
    assert all(s > 0 for each in seconds.values() for s in each)
    # A training step is a forward pass and more; the loop is a pass a label.
    assert min(seconds[STEP]) > min(seconds[FORWARD])
    assert seconds[LOOP][0] > 5 * seconds[FORWARD][0]
    without = measure_operations(OperationSettings(str(model.path), 24, rounds=1, full=False))
    assert not {LOOP, NORMS} & set(without["seconds"])


def test_the_table_of_a_whole_run(model: SpeedModel) -> None:
    measured = measure_operations(OperationSettings(str(model.path), 16, rounds=2))
    of_processes = {
        "model": "model",
        "records": 8,
        "tokens": 16,
        "label_tokens": 120,
        "processes": {
            name: {"cpu_seconds": 2.0, "wall_seconds": 3.0, "peak_megabytes": 500.0, "runs": 1}
            for name in (EPOCH, INDEX, TRACE)
        },
        "index_per_epoch": {"median": 1.25, "least": 1.0, "greatest": 1.5},
        "steps": {"search": 0.5, "tokens": 8},
        "bytes_a_token": 300.0,
    }
    peer = {"model": "model", "records": 8, "tokens": 16, "title": "peer", "version": "1.0"}
    cost = {"cpu_seconds": 5.0, "wall_seconds": 6.0, "peak_megabytes": 900.0}
    outcome = SpeedOutcome(
        SpeedSettings(("tiny",), (16,)),
        ({**measured, "model": "model"},),
        (of_processes,),
        (
            {**peer, "what": "scores", **cost, "megabytes": 1.0, "set_up": cost},
            {**peer, "what": "factors", "set_up": cost, "error": "no linear map"},
            {**peer, "what": "dots", "version": None, "error": NOT_INSTALLED},
        ),
        1.0,
    )
    results = speed_results(outcome)
    rows = {row["operation"]: row for row in results.sections["operations"]}
    assert rows[FORWARD]["forward_passes"] == {"median": 1.0, "least": 1.0, "greatest": 1.0}
    assert rows[STEP]["training_steps"] == 1.0
    # The rate of a matrix product is that of the least time that a forward pass can take.
    flops = 2 * measured["parameters"] * 16 / (measured["peak_gflops"] * 1e9)
    share = rows[FORWARD]["matrix_products_at_peak"]
    assert share == pytest.approx(rows[FORWARD]["seconds"]["median"] / flops)
    assert "1.25 (1 to 1.5)" in results.table
    lines = [re.sub(r" +", " ", line) for line in results.table.splitlines()]
    head, _, *of_peers = lines[lines.index("## Peers, the same records") + 2 :]
    ends = ("CPU s", "times haiftrace index", "wall s", "peak, MB", "kept, MB")
    assert head == f"| Model | Records of tokens | Command | What | {' | '.join(ends)} |"
    assert [line.removeprefix("| model | 8 of 16 | ") for line in of_peers] == [
        "haiftrace index | keeps what trace searches | 2 | 1 | 3 | 500 | 0.0343 |",
        "peer 1.0 | scores; its build before: 5 CPU s more | 5 | 2.5 | 6 | 900 | 1 |",
        "peer 1.0 | failed: no linear map | – | – | – | – | – |",
        "peer | not installed | – | – | – | – | – |",
    ]
    assert NONE in results.table
    assert set(results.figures) == {"cost"}


def test_lengths_are_numbers() -> None:
    assert numbers("512,64,64") == (64, 512)
    with pytest.raises(UsageError, match="--lengths"):
        numbers("64,long")


@pytest.mark.parametrize(
    "settings",
    [
        SpeedSettings((), (64,)),
        SpeedSettings(("no-such-model",), (64,)),
        SpeedSettings(("tiny",), (4,)),
        SpeedSettings(("tiny",), (64,), dtype="int3"),
        SpeedSettings(("tiny",), (64,), peer_python="no-such-python"),
    ],
)
def test_settings_that_make_no_sense(settings: SpeedSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run_speed(settings, tmp_path / "out", Silent())


@pytest.mark.slow
def test_a_whole_run_on_a_tiny_model(tmp_path: Path) -> None:
    """Peers that fail or are absent fail nothing."""
    python = interpreter(tmp_path / "python", {"bergson": "2.5.1"}, "print('no memory'); exit(1)")
    settings = SpeedSettings(("tiny",), (16,), rounds=1, seconds=1, peer_python=python)
    outcome = run_speed(settings, tmp_path / "out", Silent())
    (measured,) = outcome.processes
    assert {INDEX, EPOCH, TRACE, AUDIT} <= set(measured["processes"])
    assert all(cost["cpu_seconds"] > 0.1 for cost in measured["processes"].values())
    assert 200 < measured["bytes_a_token"] < 2000
    assert set(speed_results(outcome).sections) == {"operations", "processes", "peers"}
    errors = ["no memory", "no memory", NOT_INSTALLED, NOT_INSTALLED]
    assert [row["error"] for row in outcome.peers] == errors
    again = run_speed(settings, tmp_path / "out", Silent())
    assert again.processes == outcome.processes, "kept from the first run"
