"""Samples of a corpus and the three sweeps over excerpts of them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from haiftrace.bench.clue.corpus import Document, read_documents
from haiftrace.bench.clue.samples import Cut, Sample, cut_samples, plan_sweeps
from haiftrace.errors import CorpusError, UsageError


def letters(text):
    """A token a letter."""
    return [ord(letter) for letter in text]


def documents(*texts):
    return [Document(text, "a.txt", 10 * number) for number, text in enumerate(texts, 1)]


def text(sample: Sample) -> str:
    return "".join(map(chr, sample.token_ids))


def test_samples_are_cut_from_the_concatenated_documents():
    samples = cut_samples(documents("abc", "defghijkl", "m", "n", "opq"), letters, 4, 4)
    assert [text(sample) for sample in samples] == ["abcd", "efgh", "ijkl", "mnop"]
    assert [sample.number for sample in samples] == [0, 1, 2, 3]
    assert [sample.line for sample in samples] == [10, 20, 20, 30]


def test_a_sample_names_the_document_of_its_first_token():
    samples = cut_samples(documents("ab", "c", "defg", "hijklm"), letters, 4, 3)
    assert [(text(s), s.line) for s in samples] == [
        *(("abc", 10), ("def", 30), ("ghi", 30), ("jkl", 40))
    ]


def test_repeated_documents_are_left_out():
    samples = cut_samples(documents("abcd", "abcd", "efgh"), letters, 2, 4)
    assert [text(sample) for sample in samples] == ["abcd", "efgh"]


def test_no_more_documents_are_read_than_needed():
    def endless():
        for number in range(10):
            assert number < 3, "read on"
            yield Document(f"{number}bcde", "a.txt", number)

    assert len(cut_samples(endless(), letters, 3, 5)) == 3


def test_too_little_text_says_how_much_there_is():
    with pytest.raises(CorpusError, match="gives 2 samples of 4 tokens, and 3 are") as caught:
        cut_samples(documents("abcdefghijk"), letters, 3, 4)
    assert "--samples 2" in caught.value.hint
    with pytest.raises(CorpusError, match="gives 0 samples") as caught:
        cut_samples(documents("abc"), letters, 1, 4)
    assert "--length" in caught.value.hint


def test_equal_samples_are_refused():
    with pytest.raises(CorpusError, match="same tokens"):
        cut_samples(documents("abcd", "abc", "d"), letters, 2, 4)


@pytest.mark.parametrize(("count", "length"), [(0, 4), (3, 1), (-1, 4)])
def test_settings_that_make_no_experiment(count, length):
    with pytest.raises(UsageError):
        cut_samples(documents("abcdefghijklm"), letters, count, length)


def test_a_cut_is_a_run_of_the_samples_tokens():
    sample = Sample(0, tuple(range(10)), "a.txt", 1)
    assert Cut(0, 2).of(sample) == (0, 1)
    assert Cut(7, 3).of(sample) == (7, 8, 9)
    with pytest.raises(AssertionError):
        Cut(8, 3).of(sample)


def test_the_three_sweeps_of_figure_2():
    a, b, c = plan_sweeps(256)
    assert [(cut.offset, cut.length) for cut in a.cuts] == [
        (0, n) for n in (2, 4, 8, 16, 32, 64, 128, 256)
    ]
    assert [(cut.offset, cut.length) for cut in b.cuts] == [
        (128, n) for n in (2, 4, 8, 16, 32, 64, 128)
    ]
    assert [(cut.offset, cut.length) for cut in c.cuts] == [
        (offset, 32) for offset in (0, 32, 64, 96, 128, 160, 192, 224)
    ]
    assert [(s.panel, s.varied, s.fixed) for s in (a, b, c)] == [
        *(("a", "length", 0), ("b", "length", 128), ("c", "offset", 32))
    ]


@pytest.mark.parametrize("length", [3, 5, 17, 64, 100])
def test_every_cut_fits_its_sample(length):
    sample = Sample(0, tuple(range(length)), "a.txt", 1)
    for sweep in plan_sweeps(length, fixed_offset=length - 2, points=5):
        assert sweep.cuts
        assert len(set(sweep.cuts)) == len(sweep.cuts)
        for cut in sweep.cuts:
            assert len(cut.of(sample)) == cut.length >= 2


def test_the_fixed_values_may_be_given():
    _, b, c = plan_sweeps(64, fixed_offset=10, fixed_length=20, points=3)
    assert [cut.length for cut in b.cuts] == [2, 4, 8, 16, 32, 54]
    assert [cut.offset for cut in c.cuts] == [0, 22, 44]
    for wrong in ({"fixed_offset": 63}, {"fixed_offset": 0}, {"fixed_length": 65}):
        with pytest.raises(UsageError, match="do not fit"):
            plan_sweeps(64, **wrong)


def test_the_shipped_sample_gives_a_hundred_samples_of_64_tokens():
    """With a tokenizer that is trained on it, as the bench's offline default does."""
    corpus = list(read_documents([]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1800,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in corpus), trainer)
    samples = cut_samples(corpus, lambda text: tokenizer.encode(text).ids, 100, 64)
    assert len({sample.token_ids for sample in samples}) == 100
    assert {len(sample.token_ids) for sample in samples} == {64}
