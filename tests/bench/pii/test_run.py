"""The PII benches as a whole: a tiny run from data to tables, presets, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.harness.results import WORK_NAME, write_results
from haiftrace.bench.harness.statistics import wilson
from haiftrace.bench.pii import run as pii_run
from haiftrace.bench.pii.decoys import BOTH, OTHER_NAME, OTHER_VALUE
from haiftrace.bench.pii.report import pii_results
from haiftrace.bench.pii.run import PiiOutcome, PiiSettings, chosen_preset, run_pii
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.loop import Compute, Schedule
from haiftrace.bench.training.presets import FINE_TUNING, PAPER_SIZES, find_preset
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.errors import OutputError, UsageError
from haiftrace.progress import Silent
from tests import kit
from tests.bench.pii.tiny_pii import tiny
from tests.bench.trainings import train_in
from tests.kit import cli, refused


def test_a_run_writes_its_tables_and_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    # A model this small answers no held-out question: the trained ones stand in for them.
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:3])
    settings = PiiSettings("pii-e", methods="haif,bm25-answer", seeds=2, ablation=False)
    monkeypatch.setattr(pii_run, "cores", lambda: 2)  # the regimes in parallel
    results = pii_results(run_pii(settings, tmp_path / "out", Silent()))
    write_results(tmp_path / "out", results)
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert document["bench"] == "pii-e"
    assert document["seeds"] == [0, 1]
    assert {row["regime"] for row in document["tracing"]} == {"learned", "memorised"}
    assert {row["seed"] for row in document["tracing"]} == {0, 1, "all"}
    for row in document["tracing"]:
        assert DEFAULT.row().items() <= row.items()
    assert {row["pool"] for row in document["ablation"]} == {"one a subject"}
    assert {row["regime"] for row in document["prediction"]} == {"learned", "memorised"}
    table = (tmp_path / "out/table.md").read_text()
    assert "## Tracing accuracy, top-1" in table
    assert (tmp_path / "out/norm-by-position.svg").exists()
    # Every stage is kept: nothing is trained, indexed or scored again.
    for name in ("trace_comparisons", "run_in_parallel"):
        monkeypatch.setattr(pii_run, name, None)
    again = pii_results(run_pii(settings, tmp_path / "out", Silent()))
    assert again.table == results.table


def test_a_given_checkpoint_is_fine_tuned_from_its_weights(tmp_path, monkeypatch):
    data = make_data("pii-e", "en_US", 8, 1, seed=3)
    start = train_in(data, tiny("pii-e"), "llama", 0, tmp_path / "start", Silent()).path(
        "memorised"
    )
    given = replace(
        find_preset(FINE_TUNING, "pii-e", given=True), subjects=8, per_subject=1, kept=2
    )
    still = replace(given, schedule=Schedule(epochs=1, batch=4, learning_rate=0, weight_decay=0))
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: still)
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:2])
    settings = PiiSettings(
        "pii-e", model=str(start), methods="haif,ek-fac", ablation=False, regimes=("memorised",)
    )
    outcome = run_pii(settings, tmp_path / "out", Silent())
    assert {row["regime"] for row in outcome.prediction} == {"memorised"}
    assert {ranks.method for ranks in outcome.ranks} == {"haif", "ek-fac"}
    # At a learning rate of 0 the checkpoint is what was given, tokenizer and all.
    (kept,) = (tmp_path / "out" / WORK_NAME).glob("training-*/checkpoint-2")
    assert (kept / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    before, after = (load_checkpoint(path).model.state_dict() for path in (start, kept))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "fine-tuned" in pii_results(outcome).table


def test_mixed_precision_trains_to_about_the_same_losses(tmp_path):
    data = make_data("pii-e", "en_US", 8, 1, seed=3)
    short = replace(tiny("pii-e"), schedule=Schedule(3, 4, 3e-3, 0.1), kept=1)
    exact, mixed = (
        train_in(data, short, "llama", 0, tmp_path, Silent(), compute=Compute(dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert exact.directory != mixed.directory
    losses = [run.checkpoints[-1].record_loss for run in (exact, mixed)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    weights = load_checkpoint(mixed.path("memorised")).model.state_dict().values()
    assert {value.dtype for value in weights} == {torch.float32}


@pytest.mark.parametrize("preset", PAPER_SIZES, ids=lambda preset: preset.name)
def test_the_papers_sizes_want_a_checkpoint_and_print_what_was_published(preset):
    with pytest.raises(UsageError, match="none is given") as caught:
        chosen_preset(PiiSettings("pii-e", preset=preset.name))
    assert "--model" in caught.value.hint
    for kind, lead in (("pii-e", "20.96 to 73.71"), ("pii-cr", "3.21 to 45.93")):
        settings = PiiSettings(kind, preset=preset.name, model="anywhere/mine")
        chosen = chosen_preset(settings)
        assert (chosen.name, chosen.kind, chosen.per_subject) == (preset.name, kind, 1)
        empty = PiiOutcome(settings, chosen, [], [], [], [], {}, 0.0)
        assert lead in pii_results(empty).table
    with pytest.raises(UsageError, match="from scratch"):
        chosen_preset(PiiSettings("pii-e", preset="tiny", model="anywhere/mine"))


def test_a_biographers_texts_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: [])
    checkpoints = []

    def write(source, locale, people, per_subject, seed, progress):
        checkpoints.append(source)
        texts = [
            [f"{p.name}: {'; '.join(p.values.values())}, {n}." for n in range(per_subject)]
            for p in people
        ]
        return dict(zip([p.id for p in people], texts, strict=True))

    monkeypatch.setattr(pii_run, "model_biographies", write)
    settings = PiiSettings("pii-e", biographer=str(kit.checkpoint_path()), methods="haif")
    for _ in range(2):
        run_pii(settings, tmp_path / "out", Silent())
    assert checkpoints == [kit.checkpoint_path()]
    with pytest.raises(UsageError, match="Only pii-e"):
        run_pii(replace(settings, kind="pii-cr"), tmp_path / "cr", Silent())


def test_decoys_are_reported_by_kind_over_all_seeds():
    keys = {"regime": "memorised", "method": "haif-t", "interval": None, "n": 4, "value": 0}
    rows = [
        {**keys, "decoy": kind, "seed": seed, "successes": count}
        for seed in (0, 1)
        for kind, count in ((OTHER_VALUE, 4), (OTHER_NAME, 3), (BOTH, 2))
    ]
    settings = PiiSettings("pii-e", seeds=2)
    outcome = PiiOutcome(settings, chosen_preset(settings), [], [], [], [], {}, 0.0, rows)
    results = pii_results(outcome)
    every = [row for row in results.sections["decoys"] if row["seed"] == "all"]
    assert [(r["decoy"], r["successes"], r["n"]) for r in every] == [
        (OTHER_VALUE, 8, 8),
        (OTHER_NAME, 6, 8),
        (BOTH, 4, 8),
    ]
    assert every[1]["interval"] == [wilson(6, 8).low, wilson(6, 8).high]
    lines = results.table.splitlines()
    (row,) = (line for line in lines if line.startswith("| haif-t"))
    values = [cell.strip().split(" (")[0] for cell in row.split("|")[2:-1]]
    assert values == ["100 %", "75 %", "50 %"]
    (head,) = (line for line in lines if OTHER_VALUE in line)
    assert f"memorised: {OTHER_NAME}" in head
    empty = PiiOutcome(settings, chosen_preset(settings), [], [], [], [], {}, 0.0)
    assert "Decoys" not in pii_results(empty).table


def test_one_core_traces_one_regime_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(pii_run, "find_preset", lambda name, kind, given: tiny(kind))
    monkeypatch.setattr(pii_run, "leaks_of", lambda data, trained, regime: data.trained()[:2])
    settings = PiiSettings("pii-cr", methods="haif", ablation=False)
    tables = []
    for count in (1, 2):
        monkeypatch.setattr(pii_run, "cores", lambda count=count: count)
        outcome = run_pii(settings, tmp_path / str(count), Silent())
        tables.append(pii_results(outcome).table)
    assert tables[0] == tables[1]


def test_settings_that_make_no_experiment_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no method"):
        run_pii(PiiSettings("pii-e", methods="magic"), tmp_path / "a", Silent())
    with pytest.raises(UsageError, match="no preset"):
        run_pii(PiiSettings("pii-e", preset="huge"), tmp_path / "a", Silent())
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        run_pii(PiiSettings("pii-e"), tmp_path / "b", Silent())


def test_the_command_refuses_what_makes_no_experiment(tmp_path: Path):
    refused(cli("bench", "pii-e", "--methods", "magic", "--out", tmp_path / "o"), "no method")
    refused(cli("bench", "pii-cr", "--preset", "huge", "--out", tmp_path / "o"), "no preset")
