"""Leave-one-out retraining: the retraining itself, the agreement table, a whole tiny bench."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from haiftrace.bench.harness.results import write_results
from haiftrace.bench.loor import retraining
from haiftrace.bench.loor.agreement import LOOR, Agreement, CaseGroup, agreement_rows, agreements
from haiftrace.bench.loor.data import LoorPreset, loor_preset, make_populations
from haiftrace.bench.loor.report import loor_results
from haiftrace.bench.loor.retraining import answer_losses, encode_answers
from haiftrace.bench.loor.run import LoorSettings, choose_cases, group_of, run_loor
from haiftrace.bench.training.answering import Prediction
from haiftrace.bench.training.encoding import encode_questions, encode_records
from haiftrace.bench.training.loop import CLIP, Schedule, _adamw
from haiftrace.bench.training.models import Shape, new_model
from haiftrace.bench.training.train import build_tokenizer, load_start, run_training
from haiftrace.errors import UsageError
from haiftrace.progress import Silent
from tests.bench.trainings import train_in

SHAPE = Shape(layers=1, width=16, inner=32, heads=2, context=192)


def small(preset, name, **changes):
    schedule = Schedule(epochs=2, batch=4, learning_rate=1e-2, weight_decay=0.1)
    common = {"name": name, "shape": SHAPE, "vocabulary": 500, "kept": 2, "enough": 0}
    return dataclasses.replace(preset, **common, schedule=schedule, **changes)


PRESET = LoorPreset(
    before=small(loor_preset("pii-cr").before, "before", subjects=6, per_subject=2),
    tuning=small(loor_preset("pii-cr").tuning, "tuned", subjects=5, per_subject=1),
)


@pytest.fixture(scope="module")
def populations():
    return make_populations(PRESET, "en_US", seed=0)


@pytest.fixture(scope="module")
def tokenizer(populations):
    return build_tokenizer(populations.before, PRESET.before, "qwen2", more=populations.texts)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["pii-e", "pii-cr"])
def test_the_presets_have_at_most_forty_candidates(kind):
    tuning = loor_preset(kind).tuning
    assert tuning.subjects * tuning.per_subject <= 40
    assert len(make_populations(loor_preset(kind), "en_US", 0).tuning.records) <= 40


def test_the_populations_share_no_subject(populations):
    before, tuning = populations.before, populations.tuning
    assert len(before.subjects) == 6
    assert len(tuning.subjects) == 5
    assert len(before.records) == 12
    assert [r.subject for r in tuning.records].count(next(iter(tuning.subjects))) == 1
    assert {r.subject for r in before.records} == {q.subject for q in before.questions}
    assert {r.subject for r in tuning.records} == {q.subject for q in tuning.questions}
    assert not set(before.subjects) & set(tuning.subjects)
    assert not set(before.subjects.values()) & set(tuning.subjects.values())
    # Held-out questions are in no training text, the tokenizer's included.
    assert not [t for q in tuning.held_out() for t in populations.texts if q.prompt in t]


def test_leaving_out_a_record_is_training_with_its_loss_weighted_zero(populations, tokenizer):
    data, preset = populations.tuning, PRESET.tuning
    data = dataclasses.replace(data, background=data.background[:6])
    records = encode_records(data, tokenizer)

    def new():
        return new_model("qwen2", preset.shape, tokenizer, 0).double()

    def trained(leave_out=None):
        return run_training(data, preset, "qwen2", 0, tokenizer, lambda *_: None, leave_out, new())

    # The same by hand, example by example, with a weight a record.
    def by_hand(left_out):
        model = new().train()
        schedule, rng = preset.schedule, random.Random(0)
        optimizer, order = _adamw(model, schedule), list(range(len(records)))
        questions = [
            *encode_questions(
                [(q.prompt, q.response) for q in data.trained()],
                tokenizer,
                answer_only=preset.answer_only,
            ),
            *encode_questions(data.background, tokenizer, answer_only=preset.answer_only),
        ]
        turns, steps = schedule.steps_an_epoch(len(records)), schedule.steps(len(records))

        def mean(weighted_examples):
            losses, weighted = [], []
            for example, weight in weighted_examples:
                ids = torch.tensor([example.ids])
                logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
                losses_T = -logs.gather(1, ids[0, 1:, None])[:, 0][torch.tensor(example.labels[1:])]
                losses.append(losses_T)
                weighted.append(losses_T * weight)
            return torch.cat(weighted).sum() / len(torch.cat(losses))

        for step in range(steps):
            if step % turns == 0:
                rng.shuffle(order)
                shown = list(questions)
                rng.shuffle(shown)
            chosen = order[step % turns :: turns]
            loss = mean([(records[k], float(k != left_out)) for k in chosen])
            loss = loss + mean([(q, 1.0) for q in shown[step % turns :: turns]])
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
        return model

    for k in (None, 2):
        torch.testing.assert_close(
            weights(trained(leave_out=k)), weights(by_hand(k)), rtol=1e-4, atol=1e-5
        )
    assert not torch.equal(weights(trained(leave_out=2)), weights(trained()))
    # No batch holds a sixth record.
    assert torch.equal(weights(trained(leave_out=5)), weights(trained()))


def test_a_given_model_is_trained_further(populations, tokenizer, tmp_path):
    before = train_in(
        populations.before, PRESET.before, "qwen2", 0, tmp_path, Silent(), more=populations.texts
    )
    start = before.path("memorised")
    tuned = train_in(populations.tuning, PRESET.tuning, "qwen2", 0, tmp_path, Silent(), start=start)
    from_new = train_in(populations.tuning, PRESET.tuning, "qwen2", 0, tmp_path, Silent())
    assert len({before.directory, tuned.directory, from_new.directory}) == 3
    model = run_training(
        populations.tuning,
        PRESET.tuning,
        "qwen2",
        0,
        tokenizer,
        lambda *_: None,
        model=load_start(start),
    )
    assert torch.equal(weights(model), weights(load_start(tuned.path("memorised"))))
    assert not torch.equal(weights(model), weights(load_start(start)))


def test_losses_are_means_over_the_answers_tokens(populations, tokenizer):
    model = new_model("qwen2", SHAPE, tokenizer, seed=0).eval()
    questions = populations.tuning.questions
    predictions = [Prediction(q, f"{q.answer} {n}") for n, q in enumerate(questions)]
    examples = encode_answers(predictions, tokenizer)
    losses = answer_losses(model, examples)
    for prediction, loss in zip(predictions, losses, strict=True):
        prompt = tokenizer(prediction.question.prompt).input_ids
        answer = tokenizer(f" {prediction.text}").input_ids
        ids = torch.tensor([prompt + answer])
        logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
        expected = [-logs[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
        assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_agreement_of_a_hand_made_matrix():
    right, wrong = CaseGroup("held-out", "correct"), CaseGroup("held-out", "incorrect")
    loor = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 4.0, 2.0, 3.0]])
    scores = {
        "same": loor * 2 + 1,
        "reversed": -loor,
        "tied": np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [np.nan, 1.0, 0.0, 0.5]]),
    }
    rows = agreements(loor, scores, [right, right, wrong], [[0], [1, 2], [1]], seed=7)
    rows = {(r["prediction"], r["method"]): r for r in agreement_rows(rows) if r["seed"] == 7}
    assert len(rows) == 8
    same = rows["correct", "same"]
    assert (same["n"], same["agreement"], same["spearman_n"]) == (2, 1, 2)
    assert same["spearman"] == pytest.approx(1)
    assert same["interval"] == pytest.approx([0.342, 1.0], abs=1e-3)
    assert same["expected"] == 0.5
    opposite = rows["correct", "reversed"]
    assert (opposite["agreement"], opposite["spearman"]) == (0, pytest.approx(-1))
    # A tie for the first place is no agreement; a constant has no correlation.
    tied = rows["correct", "tied"]
    assert (tied["agreement"], tied["expected"], tied["spearman_n"]) == (0, 0, 1)
    assert tied["spearman"] == pytest.approx(np.corrcoef([4, 3, 2, 1], [3.5, 3.5, 1.5, 1.5])[0, 1])
    # Not a number is the worst score.
    assert rows["incorrect", "tied"]["agreement"] == 1
    assert rows["incorrect", "tied"]["spearman"] == pytest.approx(1)
    itself = rows["correct", LOOR]
    assert (itself["agreement"], itself["spearman"], itself["expected"]) == (None, None, 0.5)


def test_seeds_are_counted_together():
    group = CaseGroup("held-out", "correct")
    seeds = [
        Agreement(group, "haif", 0, (True, False), (1.0, None), (True, True)),
        Agreement(group, "haif", 1, (True,), (0.5,), (False,)),
    ]
    rows = agreement_rows(seeds)
    assert [row["seed"] for row in rows] == [0, 1, "all"]
    assert rows[-1]["n"] == 3
    assert rows[-1]["agreement"] == rows[-1]["expected"] == pytest.approx(2 / 3)
    assert (rows[-1]["spearman"], rows[-1]["spearman_n"]) == (0.75, 2)


def test_test_cases_are_drawn_group_by_group(populations):
    questions = populations.tuning.questions
    predictions = [
        Prediction(q, q.answer if n % 2 else ("" if n % 4 else "x"))
        for n, q in enumerate(questions)
    ]
    chosen = choose_cases(predictions, 1, seed=3)
    assert chosen == choose_cases(predictions, 1, seed=3)
    assert len(set(chosen.values())) == len(chosen)
    every = choose_cases(predictions, 100, seed=3)
    assert set(chosen) <= set(every)
    assert set(every) == {n for n, p in enumerate(predictions) if p.text}
    assert all(group_of(predictions[n]) == group for n, group in every.items())


def test_no_case_at_all_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--cases"):
        run_loor(LoorSettings("pii-cr", cases=0), tmp_path, Silent(), PRESET)


def test_a_whole_bench_and_its_resumption(tmp_path, monkeypatch):
    settings = LoorSettings("pii-cr", methods="layerwise,haif,gradient-cosine,bm25", cases=3)
    runs = []
    really = retraining._retrained

    def counted(experiment, start, tokenizer, examples, k, progress):
        runs.append(k)
        if len(runs) == 6 and k == 5 - 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt
        return really(experiment, start, tokenizer, examples, k, progress)

    monkeypatch.setattr(retraining, "_retrained", counted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_loor(settings, out, Silent(), PRESET)
    assert runs == [None, 0, 1, 2, 3, 4]
    outcome = run_loor(settings, out, Silent(), PRESET)
    assert runs[6:] == [4]
    again = run_loor(settings, out, Silent(), PRESET)
    assert len(runs) == 7
    assert again.agreements == outcome.agreements

    results = loor_results(outcome)
    write_results(out, results)
    document = json.loads((out / "results.json").read_text("utf-8"))
    assert document["bench"] == "loor-pii-cr"
    rows = document["loor"]
    assert {row["method"] for row in rows} == {"layerwise", "haif", "gradient-cosine", "bm25", LOOR}
    assert {row["seed"] for row in rows} == {0, "all"}
    keys = {"prediction", "method", "seed", "n", "agreement", "interval", "spearman", "expected"}
    assert all(keys <= set(row) for row in rows)
    assert all(row["n"] <= 3 for row in rows)
    counts = {row["questions"]: row["n"] for row in document["prediction"]}
    assert sum(counts.values()) == 10
    assert all(counts.values())
    # What is left out changes the answers' losses, by more than rounding does.
    for row in document["rounding"]:
        assert row["rounding"] < row["typical"] < row["largest"]
    table = (out / "table.md").read_text("utf-8")
    assert "LOOR itself" in table
    assert "gradient-cosine" in table
