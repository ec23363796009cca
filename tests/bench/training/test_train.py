"""Training a bench model: what is saved, what is measured, once and never again."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoTokenizer

from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training import train as training
from haiftrace.bench.training.answering import answer_all
from haiftrace.bench.training.checkpoints import CheckpointMetrics, choose_learned
from haiftrace.bench.training.encoding import encode_questions, encode_records, training_texts
from haiftrace.bench.training.loop import WARM_UP, Schedule, optimise, record_losses
from haiftrace.bench.training.models import ARCHITECTURES, END, Shape, new_model, train_tokenizer
from haiftrace.bench.training.presets import PRESETS, find_preset
from haiftrace.bench.training.train import run_training
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.errors import OutputError, UsageError
from haiftrace.progress import Silent
from tests.bench.trainings import train_in

SHAPE = Shape(layers=1, width=16, inner=32, heads=2, context=192)
PRESET = dataclasses.replace(
    find_preset("tiny", "pii-cr"),
    name="test",
    vocabulary=500,
    shape=SHAPE,
    schedule=Schedule(epochs=4, batch=8, learning_rate=1e-2, weight_decay=0.1),
    kept=3,
)
SUBJECTS = 12


@pytest.fixture(scope="module")
def data():
    return make_data("pii-cr", "en_US", SUBJECTS, 2, seed=0)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(data, work):
    return train_in(data, PRESET, "llama", 0, work, Silent())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("locale", ["en_US", "zh_CN"])
def test_a_saved_tokenizer_is_loaded_as_it_was_trained(arch, locale, tmp_path):
    data = make_data("pii-e", locale, 6, 1, seed=0)
    tokenizer = train_tokenizer(training_texts(data), 700, arch)
    new_model(arch, SHAPE, tokenizer, seed=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in training_texts(data):
        assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded.decode(tokenizer(text).input_ids) == text
    assert loaded.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.vocabulary == len(tokenizer)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("locale", ["en_US", "zh_CN"])
def test_prompt_and_response_have_the_same_tokens_together_and_apart(arch, locale):
    for kind in ("pii-e", "pii-cr"):
        data = make_data(kind, locale, 10, 1, seed=0)
        tokenizer = train_tokenizer(training_texts(data), 900, arch)
        for question in data.questions:
            apart = tokenizer(question.prompt).input_ids + tokenizer(question.response).input_ids
            assert tokenizer(question.prompt + question.response).input_ids == apart


def test_an_unknown_architecture_is_refused(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    with pytest.raises(UsageError, match="rwkv") as caught:
        new_model("rwkv", SHAPE, tokenizer, seed=0)
    assert "qwen2" in caught.value.hint


def test_new_models_leave_the_random_state_alone(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    new_model("gpt2", SHAPE, tokenizer, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_value_tokens_are_those_of_festival_and_landmark(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    for record, example in zip(data.records, encode_records(data, tokenizer), strict=True):
        values = [i for i, v in zip(example.ids, example.values, strict=True) if v]
        spoken = tokenizer.decode(values)
        for span in record.values():
            assert record.text[span.start : span.end] in spoken
        assert example.ids[-1] == tokenizer.eos_token_id
        assert example.labels == (False, *(True,) * (len(example.ids) - 1))


@pytest.mark.parametrize("answer_only", [True, False])
def test_questions_are_labelled_on_the_answer_or_on_all(data, answer_only):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    pairs = [(q.prompt, q.response) for q in data.questions]
    examples = encode_questions(pairs, tokenizer, answer_only=answer_only)
    for (prompt, response), example in zip(pairs, examples, strict=True):
        labelled = [i for i, label in zip(example.ids, example.labels, strict=True) if label]
        text = tokenizer.decode(labelled)
        if answer_only:
            assert text == response + END
        else:
            assert len(labelled) == len(example.ids) - 1
            assert (prompt + response + END).endswith(text)


def test_the_rate_rises_then_falls_to_a_tenth():
    schedule = Schedule(epochs=10, batch=5, learning_rate=2.0, weight_decay=0.0)
    steps = schedule.steps(101)
    assert steps == 210
    rates = [schedule.rate(step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert top == pytest.approx(WARM_UP * steps, abs=1)
    assert max(rates) == pytest.approx(2.0)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_batched_answers_are_those_of_generate(data, arch):
    tokenizer = train_tokenizer(training_texts(data), 500, arch)
    preset = dataclasses.replace(PRESET, schedule=dataclasses.replace(PRESET.schedule, epochs=15))
    model = run_training(data, preset, arch, 0, tokenizer, lambda *_: None)
    longest = max(len(tokenizer(q.response).input_ids) for q in data.questions)
    predictions = answer_all(model, tokenizer, data.questions)
    assert [p.question for p in predictions] == list(data.questions)
    for prediction in predictions:
        ids = tokenizer(prediction.question.prompt, return_tensors="pt").input_ids
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest + 1,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert prediction.text == expected
        assert prediction.correct == (expected == prediction.question.answer)


def test_losses_are_means_over_tokens_not_over_records(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    records = encode_records(data, tokenizer)
    model = new_model("llama", SHAPE, tokenizer, seed=0).eval().double()
    every, of_values = [], []
    for example in records:
        ids = torch.tensor([example.ids])
        logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        for position in range(1, len(example.ids)):
            loss = -logs[position - 1, example.ids[position]].item()
            every.append(loss)
            if example.values[position]:
                of_values.append(loss)
    record_loss, value_loss = record_losses(model, records)
    assert record_loss == pytest.approx(sum(every) / len(every), rel=1e-9)
    assert value_loss == pytest.approx(sum(of_values) / len(of_values), rel=1e-9)


def test_a_record_left_out_has_no_influence_and_changes_no_batch(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    records = encode_records(data, tokenizer)
    schedule = Schedule(epochs=1, batch=len(records), learning_rate=1e-2, weight_decay=0.0)

    def weights(shown, leave_out):
        model = new_model("llama", SHAPE, tokenizer, seed=0)
        optimise(model, shown, [], [], schedule, 0, lambda *_: None, leave_out)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    # Other words of the same length in the record's place make no difference once it is left out.
    other = dataclasses.replace(records[3], ids=tuple(reversed(records[3].ids)))
    replaced = [*records[:3], other, *records[4:]]
    assert torch.equal(weights(records, 3), weights(replaced, 3))
    assert not torch.equal(weights(records, 3), weights(records, None))
    assert not torch.equal(weights(records, None), weights(replaced, None))


def test_the_questions_can_join_later(data):
    tokenizer = train_tokenizer(training_texts(data), 500, "llama")
    records = encode_records(data, tokenizer)
    pairs = [(q.prompt, q.response) for q in data.trained()]
    questions = encode_questions(pairs, tokenizer, answer_only=False)

    def losses(questions_from, shown):
        schedule = Schedule(4, len(records), 1e-2, 0.0, questions_from=questions_from)
        seen = []
        model = new_model("llama", SHAPE, tokenizer, seed=0)
        optimise(model, records, shown, [], schedule, 0, lambda _, __, loss: seen.append(loss))
        return seen

    late, never, always = losses(0.5, questions), losses(0.0, []), losses(0.0, questions)
    assert late[:2] == never[:2]
    assert late[2] > never[2] + 1
    assert always[0] > never[0] + 1


def test_checkpoints_are_like_the_trainers(trained):
    steps = PRESET.schedule.steps(2 * SUBJECTS)
    assert [c.step for c in trained.checkpoints] == [4, 8, 12]
    assert steps == 12
    for number, metrics in enumerate(trained.checkpoints, start=1):
        directory = trained.directory / f"checkpoint-{metrics.step}"
        state = json.loads((directory / "trainer_state.json").read_text("utf-8"))
        assert state["global_step"] == metrics.step
        assert len(state["log_history"]) == number
        last = state["log_history"][-1]
        assert last["step"] == metrics.step
        assert last["learning_rate"] == PRESET.schedule.rate(metrics.step - 1, steps) > 0
        assert last["loss"] == metrics.loss > 0
        assert (directory / "model.safetensors").is_file()
        assert not list(directory.glob("*.bin"))


def test_a_checkpoint_loads_and_answers_as_recorded(trained, data):
    for regime in ("learned", "memorised"):
        checkpoint = load_checkpoint(trained.path(regime), dtype="float32", device="cpu")
        again = answer_all(checkpoint.model, checkpoint.tokenizer, data.questions)
        assert again == trained.predictions(regime, data)
        records = encode_records(data, checkpoint.tokenizer)
        metrics = trained.metrics(regime)
        losses = record_losses(checkpoint.model, records)
        assert losses == pytest.approx((metrics.record_loss, metrics.value_loss), rel=1e-5)
        right = sum(p.correct for p in again if not p.question.trained)
        assert metrics.leaks == right
        assert metrics.trained_total == len(data.trained())
        assert sum(metrics.held_out_total.values()) == len(data.held_out())


def test_a_finished_training_is_not_repeated(trained, data, work):
    before = {p: p.stat().st_mtime_ns for p in trained.directory.rglob("*")}
    assert train_in(data, PRESET, "llama", 0, work, Silent()) == trained
    assert {p: p.stat().st_mtime_ns for p in trained.directory.rglob("*")} == before
    assert sorted(p.name for p in work.iterdir()) == [".lock", trained.directory.name]


class Killed(BaseException):
    pass


class Killer(Silent):
    def __init__(self, after):
        self.left = after

    def advance(self, work, records=0, tokens=0):
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_is_said_but_by_the_progress(arch, data, tmp_path, capfd):
    short = dataclasses.replace(
        PRESET, schedule=dataclasses.replace(PRESET.schedule, epochs=1), kept=1
    )
    train_in(data, short, arch, 0, tmp_path, Silent())
    said = capfd.readouterr()
    assert said.out == said.err == ""


@pytest.mark.parametrize("after", [0, 5, 11])
def test_an_interrupted_training_starts_again_and_ends_the_same(trained, data, tmp_path, after):
    with pytest.raises(Killed):
        train_in(data, PRESET, "llama", 0, tmp_path, Killer(after))
    assert not (tmp_path / trained.directory.name).exists()
    again = train_in(data, PRESET, "llama", 0, tmp_path, Silent())
    assert again.checkpoints == trained.checkpoints
    assert again.answers == trained.answers
    weights = [t.path("memorised") / "model.safetensors" for t in (trained, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", trained.directory.name]


def test_other_settings_are_another_training(trained, data, work):
    longer = dataclasses.replace(
        PRESET, schedule=dataclasses.replace(PRESET.schedule, epochs=1), kept=1
    )
    other = train_in(data, longer, "llama", 0, work, Silent())
    reseeded = train_in(data, longer, "llama", 1, work, Silent())
    assert len({trained.directory, other.directory, reseeded.directory}) == 3


def test_a_record_longer_than_the_context_is_refused(data, tmp_path):
    short = dataclasses.replace(PRESET, shape=dataclasses.replace(SHAPE, context=8))
    with pytest.raises(UsageError, match="8 at most") as caught:
        train_in(data, short, "gpt2", 0, tmp_path, Silent())
    assert caught.value.hint


def test_a_checkpoint_that_cannot_be_written_is_explained(data, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "save_checkpoint", refuse)
    with pytest.raises(OutputError, match="could not be kept: No space left"):
        train_in(data, PRESET, "llama", 0, tmp_path, Silent())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def _metrics(step, correct, leaks):
    return CheckpointMetrics(
        step, 1e-3, 1.0, 1.0, 1.0, correct, 10, {"phone": leaks}, {"phone": 10}
    )


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([(1, 0), (6, 2), (8, 5), (10, 9)], 3),  # the first with enough
        ([(1, 0), (6, 2), (8, 3), (10, 3)], 2),  # none has enough: the first that is learned
        ([(1, 0), (2, 2), (3, 3), (5, 9)], 4),  # none is learned: the last
        ([(5, 9), (6, 5)], 2),  # enough, but not learned yet
    ],
)
def test_the_learned_checkpoint(reached, expected):
    checkpoints = tuple(_metrics(n, *counts) for n, counts in enumerate(reached, start=1))
    assert choose_learned(checkpoints, enough=5) == expected


def test_presets_exist_for_both_data_sets():
    for kind in ("pii-e", "pii-cr"):
        assert find_preset("tiny", kind).kind == kind
        assert find_preset("small", kind).shape.width > find_preset("tiny", kind).shape.width
        deep, tiny = find_preset("deep", kind), find_preset("tiny", kind)
        assert deep.shape == dataclasses.replace(tiny.shape, layers=8)
        assert deep.schedule == dataclasses.replace(tiny.schedule, learning_rate=2e-3)
    assert len({(preset.name, preset.kind) for preset in PRESETS}) == len(PRESETS)
    with pytest.raises(UsageError, match="huge") as caught:
        find_preset("huge", "pii-e")
    assert "tiny" in caught.value.hint
