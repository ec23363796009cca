"""`haiftrace bench digits`: the experiment, its outputs, and going on after an interrupt."""

from __future__ import annotations

import json

import numpy as np
import pytest

from haiftrace.bench.digits import run as digits_run
from haiftrace.bench.digits.report import digits_results
from haiftrace.bench.digits.run import ESTIMATORS, DigitsSettings, run_digits
from haiftrace.bench.digits.softmax_regression import Recipe
from haiftrace.bench.harness.statistics import pearson, spearman
from haiftrace.errors import CorpusError, OutputError, UsageError
from haiftrace.progress import Silent
from tests.kit import cli, misused, refused

SMALL = ("--steps", "80", "--records", "6", "--limit", "150", "--batch-size", "20")
SETTINGS = DigitsSettings(recipe=Recipe(80, 20, 0.05, 0.001), records=6, limit=150)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    settings = DigitsSettings(recipe=SETTINGS.recipe, records=6, limit=150, seed=3, seeds=2)
    return run_digits(settings, tmp_path_factory.mktemp("digits"), Silent())


def test_lemma_1_holds_to_many_digits(outcome):
    for seed in outcome.by_seed:
        assert seed.lemma.max() < 1e-7


def test_the_exact_derivative_foresees_retraining_best(outcome):
    for seed in outcome.by_seed:
        assert seed.relative("sgd").max() < 0.1
        assert seed.cosine["sgd"].min() > 0.99
        for other in ("hif", "ttif"):
            assert np.median(seed.error["sgd"]) < np.median(seed.error[other])


def test_seeds_draw_other_records_and_the_same_seed_the_same(outcome, tmp_path):
    first, second = outcome.by_seed
    assert [seed.seed for seed in outcome.by_seed] == [3, 4]
    assert first.rows.tolist() != second.rows.tolist()
    settings = DigitsSettings(recipe=SETTINGS.recipe, records=6, limit=150, seed=4)
    (again,) = run_digits(settings, tmp_path, Silent()).by_seed
    assert again.rows.tolist() == second.rows.tolist()
    for name in ESTIMATORS:
        np.testing.assert_array_equal(again.error[name], second.error[name])


def test_the_rows_are_the_numbers(outcome):
    sections = digits_results(outcome).sections
    records = sections["records"]
    assert len(records) == 12
    assert all(row["change_norm"] > 0 for row in records)
    for row in sections["estimation"]:
        of_seed = [r for r in records if row["seed"] in (r["seed"], "all")]
        norms = [r["gradient_norm"] for r in of_seed]
        errors = [r["error"][row["estimator"]] for r in of_seed]
        assert row["n"] == row["error_spearman"]["n"] == len(of_seed)
        assert row["error_spearman"]["value"] == pytest.approx(spearman(norms, errors).value)
        assert row["error_pearson"]["value"] == pytest.approx(pearson(norms, errors).value)
        assert row["median_error"] == pytest.approx(np.median(errors))
    assert [(r["estimator"], r["seed"]) for r in sections["estimation"]] == [
        (name, seed) for seed in (3, 4, "all") for name in ESTIMATORS
    ]
    largest = max(r["lemma1_relative_difference"] for r in records)
    assert sections["lemma1"][-1]["largest_relative_difference"] == largest
    assert [row["seed"] for row in sections["training"]] == [3, 4]
    assert sections["training"][0]["accuracy"]["n"] == 30


def test_the_command_from_end_to_end(tmp_path):
    outcome = cli("bench", "digits", "--out", "here", *SMALL, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1].startswith("Written to here (")
    assert outcome.out == (tmp_path / "here" / "table.md").read_text()
    for word in ("HIF", "TTIF", "SGD, exact", "Lemma 1", "n = 6", "L2 0.001", "seed 0"):
        assert word in outcome.out
    names = {"results.json", "table.md", "figure1.png", "figure1.svg", "work"}
    assert {path.name for path in (tmp_path / "here").iterdir()} == names
    document = json.loads((tmp_path / "here" / "results.json").read_text())
    assert document["bench"] == "digits"
    assert document["settings"]["recipe"]["steps"] == 80
    assert document["settings"]["training_records"] == 120
    assert len(document["fingerprints"]["data"]) == 64
    assert len(document["records"]) == 6
    again = cli("bench", "digits", "--out", "here", *SMALL, "-q", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    assert again.out == outcome.out


def test_an_interrupted_run_goes_on_from_its_last_stage(tmp_path, monkeypatch):
    calls: list[float] = []
    train = digits_run.train_weighted

    def interrupted(problem, recipe, batches, followed, weights, advance):
        calls.append(float(weights[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(problem, recipe, batches, followed, weights, advance)

    monkeypatch.setattr(digits_run, "train_weighted", interrupted)
    first = cli("bench", "digits", "--out", tmp_path / "o", *SMALL)
    assert first.code == 130
    assert "goes on from the last finished stage" in first.err
    assert not (tmp_path / "o" / "results.json").exists()
    second = cli("bench", "digits", "--out", tmp_path / "o", *SMALL)
    assert second.code == 0, second.err
    kept = [line for line in second.err.splitlines() if line.startswith("Kept")]
    assert kept == [
        f"Kept from an earlier run: seed-0-{name}."
        for name in ("training", "hessian", "retraining")
    ]
    assert calls == [0.0, 1.001, 1.001, 0.999]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--l2", "0"), "--l2 must be positive"),
        (("--l2", "nan"), "--l2 must be positive"),
        (("--learning-rate", "0"), "--learning-rate must be positive"),
        (("--learning-rate", "5000"), "--learning-rate must be positive"),
        (("--epsilon", "0.5"), "--epsilon must lie"),
        (("--limit", "10"), "10 images leave 8 for training"),
        (("--steps", "2", "--batch-size", "3"), "2 steps see only 6 records"),
        (("--data", "nowhere"), "There is no file nowhere"),
        (("--device", "tpu"), "No such device"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, options, what):
    arguments = ("bench", "digits", "--out", tmp_path / "o", *SMALL[:3], "7", *SMALL[4:])
    refused(cli(*arguments, *options, cwd=tmp_path), what)


@pytest.mark.parametrize("rate", [30.0, 100.0])
def test_a_training_that_diverges_says_so(tmp_path, rate):
    recipe = Recipe(steps=2000, batch_size=20, learning_rate=rate, l2=0.001)
    with pytest.raises(UsageError, match="diverged"):
        run_digits(DigitsSettings(recipe=recipe, records=6, limit=150), tmp_path, Silent())


def test_other_things_in_the_output_directory_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        run_digits(SETTINGS, tmp_path, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CorpusError):
        run_digits(DigitsSettings(data=("none",)), tmp_path / "new", Silent())
    with pytest.raises(UsageError):
        run_digits(DigitsSettings(seed=-1), tmp_path / "new", Silent())


def test_misuse_of_the_group():
    misused(cli("bench", "digit"), "digit")
    assert cli("bench", "--help").code == 0
    help_text = cli("bench", "digits", "--help").out
    assert help_text.count("haiftrace bench digits") >= 3
    assert "env var" not in help_text
