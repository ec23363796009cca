"""Answers that are drawn: by the model's own probabilities, and the same with and without cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from haiftrace.errors import UsageError
from haiftrace.query.generation import sampled
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import generated_query, sampled_queries
from haiftrace.query.sampling import Sampling, draw
from tests import kit
from tests.kit import PROMPT
from tests.tiny_models import HYBRID_NAMES, records, trained

NAMES = ("gpt2", *HYBRID_NAMES)


def by_hand(model, ids, count, ends, sampling, number):
    """One answer by itself, without a cache: walk up the probabilities to a random number."""
    generator = sampling.generator(ids, number)
    said = []
    while len(said) < count:
        with torch.no_grad():
            logits = model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].double()
        mark = float(torch.rand(1, generator=generator, dtype=torch.float64))
        below, token = 0.0, -1
        for probability in torch.softmax(logits / sampling.temperature, 0).tolist():
            token += 1
            below += probability
            if below > mark:
                break
        if token in ends:
            break
        said.append(token)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_drawn_as_by_hand(name):
    """Together from a cache, as each by itself without one."""
    model = trained(name)
    ids = records(name)[0][:4]
    sampling = Sampling(5, 1.3, seed=7)
    checkpoint = SimpleNamespace(model=model, tokenizer=SimpleNamespace(eos_token_id=1))
    said = sampled(checkpoint, ids, 9, (), sampling)
    assert said == [by_hand(model, ids, 9, {1}, sampling, number) for number in range(5)]
    assert len({tuple(answer) for answer in said}) > 1


def test_tokens_come_as_often_as_the_model_says():
    logits = torch.tensor([1.0, -1.0, 0.5, -30.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(
        torch.tensor([draw(logits, 2.0, generator) for _ in range(20_000)]), minlength=4
    )
    expected = torch.softmax(logits / 2.0, 0)
    deviation = (expected * (1 - expected) / 20_000).sqrt()
    assert ((counts / 20_000 - expected).abs() <= 4 * deviation).all()


def test_an_answer_depends_on_its_number_and_seed_alone():
    model = kit.checkpoint()

    def responses(count, seed=0, temperature=1.5):
        prompting = PromptSettings(
            max_new_tokens=6, sampling=Sampling(count, temperature, seed=seed)
        )
        said = sampled_queries(model, PROMPT, prompting)
        return ["" if query is None else query.response for query in said]

    many = responses(40)
    assert responses(5) == many[:5]
    assert responses(5, seed=1) != many[:5]
    greedy = generated_query(model, PROMPT, PromptSettings(max_new_tokens=6), None)
    assert set(responses(4, temperature=1e-4)) == {greedy.response}


def test_a_drawn_answer_is_a_query_like_any_other():
    model = kit.checkpoint()
    prompting = PromptSettings(max_new_tokens=8, stop=(".",), sampling=Sampling(6, 1.2))
    for query in sampled_queries(model, PROMPT, prompting):
        assert query is not None
        assert query.generated
        assert "." not in query.response
        assert query.text == PROMPT + query.response
        assert any(query.labels)
    assert sampled_queries(model, PROMPT, PromptSettings()) == []


def test_what_draws_nothing_is_refused():
    for count, temperature in ((0, 1.0), (3, 0.0), (3, -1.0), (3, float("nan"))):
        with pytest.raises(UsageError):
            Sampling(count, temperature)
