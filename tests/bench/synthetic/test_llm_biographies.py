"""Biographies by a local model: taken only where every value stands in them word for word."""

import pytest
import torch

from haiftrace.bench.synthetic import llm_biographies
from haiftrace.bench.synthetic.llm_biographies import ATTEMPTS, model_biographies
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.synthetic.subjects import make_subjects
from haiftrace.errors import CheckpointError
from haiftrace.progress import Silent
from tests.kit import checkpoint, checkpoint_path

PEOPLE = make_subjects("en_US", 3, seed=0)


@pytest.fixture(autouse=True)
def short_requests(monkeypatch):
    """The tests' model reads 64 tokens; its request is never read here."""
    monkeypatch.setattr(llm_biographies, "_LEAST_CONTEXT", 64)


def write(subjects=PEOPLE, per_subject=2):
    return model_biographies(checkpoint_path(), "en_US", subjects, per_subject, 0, Silent())


def scripted(monkeypatch, texts):
    """Have the model write these texts one after the other."""
    left = iter(texts)
    temperatures = []

    def speak(model, tokenizer, request, temperature):
        temperatures.append(temperature)
        return next(left)

    monkeypatch.setattr(llm_biographies, "_write", speak)
    return temperatures


def full(person, end=""):
    return f"{person.name}: {'; '.join(person.values.values())}.{end}"


def test_what_lacks_a_value_is_written_again_and_warmer(monkeypatch):
    ann = PEOPLE[0]
    garbled = full(ann).replace(ann.values["phone"], "555-0100")
    temperatures = scripted(monkeypatch, [garbled, full(ann)])
    assert write([ann], 1) == {ann.id: [full(ann)]}
    assert len(temperatures) == 2
    assert temperatures[1] > temperatures[0] > 0


def test_a_text_is_not_taken_twice(monkeypatch):
    ann = PEOPLE[0]
    scripted(monkeypatch, [full(ann), full(ann), full(ann, " Indeed.")])
    assert write([ann], 2) == {ann.id: [full(ann), full(ann, " Indeed.")]}


def test_every_subject_gets_its_texts_and_the_data_set_takes_them(monkeypatch):
    scripted(monkeypatch, [full(p, f" {n}") for p in PEOPLE for n in range(2)])
    texts = write()
    assert {who: len(written) for who, written in texts.items()} == {p.id: 2 for p in PEOPLE}
    data = make_data("pii-e", "en_US", 3, 2, seed=0, writer=lambda people: texts)
    assert {record.text for record in data.records} == {
        t for written in texts.values() for t in written
    }


def test_a_model_that_never_copies_a_value_is_refused(monkeypatch):
    scripted(monkeypatch, ["Nothing."] * ATTEMPTS)
    with pytest.raises(CheckpointError, match=f"failed {ATTEMPTS} times") as caught:
        write(PEOPLE[:1], 1)
    assert "--biographer" in caught.value.hint
    said = caught.value.message + caught.value.hint
    assert not [v for v in (PEOPLE[0].name, *PEOPLE[0].values.values()) if v in said]


def test_a_model_that_only_repeats_itself_is_refused(monkeypatch):
    scripted(monkeypatch, [full(PEOPLE[0])] * (1 + ATTEMPTS))
    with pytest.raises(CheckpointError, match="repeated itself"):
        write(PEOPLE[:1], 2)


def test_the_model_itself_samples_a_line_of_new_text():
    # Scripted above; here the tests' model says what it likes, on one line and without the request.
    loaded = checkpoint(dtype="float32")
    torch.manual_seed(0)
    text = llm_biographies._write(loaded.model, loaded.tokenizer, "Mara Ellison's", 0.7, 20)
    assert text == " ".join(text.split())
    assert not text.startswith("Mara Ellison's")


def test_a_model_of_short_context_is_refused(monkeypatch):
    monkeypatch.setattr(llm_biographies, "_LEAST_CONTEXT", 65)
    with pytest.raises(CheckpointError, match="64 tokens at most") as caught:
        write()
    assert "--biographer" in caught.value.hint


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        model_biographies(tmp_path, "en_US", PEOPLE, 1, 0, Silent())
