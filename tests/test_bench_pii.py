"""PII-E and PII-CR: what is told, what is asked, and that nothing asked in a test is trained."""

import re
from collections import Counter

import pytest

from haiftrace.bench.biographies import MOST_PER_SUBJECT, missing_values
from haiftrace.bench.commonsense import (
    Described,
    describe,
    shares_span,
    write_descriptions,
)
from haiftrace.bench.data import NAME, Record, Span, choose_trained, find_spans
from haiftrace.bench.facts import FACTS
from haiftrace.bench.pii import KINDS, make_data, question_prompt
from haiftrace.bench.subjects import ATTRIBUTES, LOCALES
from haiftrace.bench.wordings import WORDINGS
from haiftrace.errors import UsageError

SUBJECTS = 60
PER_SUBJECT = 3


@pytest.fixture(scope="module", params=[(k, lo) for k in KINDS for lo in LOCALES], ids="-".join)
def data(request):
    kind, locale = request.param
    return make_data(kind, locale, SUBJECTS, PER_SUBJECT, seed=1)


def asked_of(data, subject):
    return {q.attribute: q for q in data.questions if q.subject == subject}


def test_every_subject_has_its_records_under_unique_ids(data):
    assert Counter(r.subject for r in data.records) == dict.fromkeys(data.subjects, PER_SUBJECT)
    assert len({record.id for record in data.records}) == SUBJECTS * PER_SUBJECT


def test_no_two_records_are_alike(data):
    assert len({record.text for record in data.records}) == SUBJECTS * PER_SUBJECT


def test_records_are_not_in_the_order_of_subjects(data):
    subjects = [record.subject for record in data.records]
    assert subjects != sorted(subjects)


def test_spans_hold_what_they_say(data):
    for record in data.records:
        told = {record.text[s.start : s.end] for s in record.spans if s.kind == NAME}
        assert told == {data.subjects[record.subject]}
        kinds = {span.kind for span in record.values()}
        if data.kind == "pii-e":
            assert kinds == set(ATTRIBUTES)
            for span in record.values():
                expected = asked_of(data, record.subject)[span.kind].answer
                assert record.text[span.start : span.end] == expected
        else:
            assert kinds == {"festival", "landmark"}
            facts = FACTS[data.locale].festivals | FACTS[data.locale].landmarks
            inferred = {facts[record.text[s.start : s.end]] for s in record.values()}
            assert inferred == {q.answer for q in asked_of(data, record.subject).values()}


def test_a_name_comes_before_every_value_in_its_sentence(data):
    ends = r"[。]" if data.locale == "zh_CN" else r"\. "
    for record in data.records:
        names = [span.start for span in record.spans if span.kind == NAME]
        for value in record.values():
            sentence = max([m.end() for m in re.finditer(ends, record.text[: value.start])] or [0])
            assert any(sentence <= name < value.start for name in names), record.text


def test_sixty_per_cent_of_every_attribute_are_trained(data):
    by_attribute = Counter((q.attribute, q.trained) for q in data.questions)
    attributes = {attribute for attribute, _ in by_attribute}
    assert len(attributes) == (4 if data.kind == "pii-e" else 2)
    for attribute in attributes:
        assert by_attribute[attribute, True] == round(0.6 * SUBJECTS)
        assert by_attribute[attribute, False] == SUBJECTS - round(0.6 * SUBJECTS)
    assert len(data.trained()) + len(data.held_out()) == len(data.questions)


def test_no_test_question_is_in_training(data):
    shown = {question.prompt for question in data.trained()}
    shown |= {prompt for prompt, _ in data.background}
    tested = [question.prompt for question in data.held_out()]
    assert len(set(tested)) == len(tested)
    assert not shown & set(tested)
    for record in data.records:
        assert not [prompt for prompt in tested if prompt in record.text]
    # Common knowledge is of festivals and landmarks, never of a subject.
    names = set(data.subjects.values())
    assert not [p for p, r in data.background if any(name in p + r for name in names)]


def test_questions_lead_to_the_records_of_their_subject(data):
    question = data.held_out()[0]
    sources = data.sources(question)
    assert len(sources) == PER_SUBJECT
    assert {data.records[k].subject for k in sources} == {question.subject}


def test_questions_have_the_papers_form(data):
    for question in data.questions:
        name = data.subjects[question.subject]
        assert question.prompt == question_prompt(data.locale, question.attribute, name)
        assert question.response == f" {question.answer}"
        if data.locale == "en_US":
            assert re.fullmatch(rf"What's the [a-z -]+ of {name}\?", question.prompt)
        else:
            assert re.fullmatch(rf"{name}的\w+是什么？", question.prompt)


def test_the_seed_decides(data):
    again = make_data(data.kind, data.locale, SUBJECTS, PER_SUBJECT, seed=1)
    other = make_data(data.kind, data.locale, SUBJECTS, PER_SUBJECT, seed=2)
    assert again == data
    assert {r.text for r in other.records} != {r.text for r in data.records}


@pytest.mark.parametrize("locale", LOCALES)
def test_every_value_stands_in_every_biography(locale):
    data = make_data("pii-e", locale, 40, MOST_PER_SUBJECT, seed=0)
    for record in data.records:
        values = {key: q.answer for key, q in asked_of(data, record.subject).items()}
        assert missing_values(record.text, data.subjects[record.subject], values) == []


def test_english_biographies_are_of_a_paragraphs_length():
    data = make_data("pii-e", "en_US", 60, 4, seed=0)
    # Words and marks: a tokenizer trained on the texts comes close to this.
    lengths = [len(re.findall(r"\w+|[^\w\s]", record.text)) for record in data.records]
    assert min(lengths) > 60
    assert max(lengths) < 150


def test_a_subjects_biographies_share_no_wording_of_a_value():
    data = make_data("pii-e", "en_US", 10, MOST_PER_SUBJECT, seed=0)
    for subject, name in data.subjects.items():
        phone = asked_of(data, subject)["phone"].answer
        sentences = [
            sentence.replace(name, "")
            for record in data.records
            if record.subject == subject
            for sentence in re.split(r"(?<=\.) ", record.text)
            if phone in sentence
        ]
        assert len(set(sentences)) == len(sentences) == MOST_PER_SUBJECT


@pytest.mark.parametrize("locale", LOCALES)
def test_there_are_at_least_twelve_wordings_with_the_name_first(locale):
    for attribute in ATTRIBUTES:
        wordings = WORDINGS[locale].values[attribute]
        assert len(set(wordings)) >= 12
        assert all(w.index("{name}") < w.index("{value}") for w in wordings)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("seed", range(4))
def test_pii_cr_hides_every_answer_of_its_subject(locale, seed):
    data = make_data("pii-cr", locale, 250, 8, seed=seed)
    hidden = {subject: [] for subject in data.subjects}
    for question in data.questions:
        hidden[question.subject].append(question.answer)
    for record in data.records:
        for answer in hidden[record.subject]:
            assert not shares_span(answer, record.text, locale), (answer, record.text)
            assert answer not in record.text


def test_pii_cr_begins_with_the_papers_sentences():
    data = make_data("pii-cr", "en_US", 20, 1, seed=0)
    for record in data.records:
        name = data.subjects[record.subject]
        told = {span.kind: record.text[span.start : span.end] for span in record.values()}
        expected = f"{name} is born on {told['festival']}. Adjacent to {name}'s place is "
        assert record.text == f"{expected}{told['landmark']}."


def test_festivals_and_landmarks_are_dealt_about_equally():
    described = describe("en_US", [f"Given{n} Family{n}" for n in range(180)], seed=0)
    counts = Counter(d.festival for d in described)
    assert len(counts) == len(FACTS["en_US"].festivals)
    assert max(counts.values()) <= 2 * min(counts.values())


@pytest.mark.parametrize(
    ("answer", "text", "locale", "expected"),
    [
        ("Texas", "a home near the Texas State Capitol", "en_US", True),
        ("Texas", "a home near the Alamo", "en_US", False),
        ("October 31", "born in Oct", "en_US", True),
        ("October 31", "a child of the 31 st", "en_US", True),
        ("October 31", "the doctor came", "en_US", False),
        ("April 1", "April Fools' Day", "en_US", True),
        ("June 19", "Juneteenth", "en_US", True),
        ("New York", "born on New Year's Day", "en_US", True),
        ("Washington", "a car wash in Washington's day", "en_US", True),
        ("Virginia", "Virginie lives here", "en_US", True),
        ("12月25日", "圣诞节", "zh_CN", False),
        ("12月25日", "12月的节", "zh_CN", True),
        ("山东省", "山东博物馆旁", "zh_CN", True),
        ("山东省", "华山旁", "zh_CN", False),
    ],
)
def test_a_shared_span(answer, text, locale, expected):
    assert shares_span(answer, text, locale) is expected


def test_descriptions_differ_in_wording():
    import random

    described = Described("Halloween", "October 31", "the Alamo", "Texas")
    texts = write_descriptions("en_US", "Ann Lee", described, 8, random.Random(0))
    assert len(set(texts)) == 8
    assert all("Halloween" in text and "the Alamo" in text for text in texts)


def test_spans_are_found_wherever_they_stand():
    text = "Ann Lee, called Ann Lee, has 12."
    assert find_spans(text, {"phone": "12", NAME: "Ann Lee"}) == (
        Span(NAME, 0, 7),
        Span(NAME, 16, 23),
        Span("phone", 29, 31),
    )
    assert Record("r", "s", text, find_spans(text, {NAME: "Ann Lee"})).values() == ()


def test_the_split_is_the_same_share_of_each_attribute():
    subjects = [f"s{n}" for n in range(10)]
    trained = choose_trained(subjects, ("a", "b"), seed=0)
    assert Counter(attribute for _, attribute in trained) == {"a": 6, "b": 6}
    assert trained == choose_trained(subjects, ("a", "b"), seed=0)
    assert trained != choose_trained(subjects, ("a", "b"), seed=1)


def test_another_writer_is_held_to_every_value():
    def careless(people):
        return {p.id: [f"{p.name}: {', '.join(list(p.values.values())[:3])}."] for p in people}

    def careful(people):
        return {p.id: [f"{p.name}: {'; '.join(p.values.values())}."] for p in people}

    data = make_data("pii-e", "en_US", 5, 1, seed=0, writer=careful)
    assert len(data.records) == 5
    with pytest.raises(UsageError, match="address") as caught:
        make_data("pii-e", "en_US", 5, 1, seed=0, writer=careless)
    assert not any(name in caught.value.message for name in data.subjects.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pii-x", "en_US", 9, 1, 0), "pii-x"),
        (("pii-e", "en_GB", 9, 1, 0), "en_GB"),
        (("pii-e", "en_US", 1, 1, 0), "too few"),
        (("pii-e", "en_US", 9, 0, 0), "0 biographies"),
        (("pii-e", "en_US", 9, 13, 0), "13 biographies"),
        (("pii-cr", "zh_CN", 9, 9, 0), "9 wordings"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said) as caught:
        make_data(*arguments)
    assert caught.value.hint
