"""Query directions of late interaction: what asks the same is formed once, and scores the same."""

from __future__ import annotations

import numpy as np
import pytest

from haiftrace.engine import make_batch
from haiftrace.methods import METHODS, find_methods
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query import Asking
from haiftrace.scoring import late
from haiftrace.scoring.directions import Question
from haiftrace.scoring.sides import distinct, sides_of, unit_directions
from haiftrace.scoring.token_shortlist import vectors_of
from haiftrace.trace import Leak
from tests import kit
from tests.kit import ANSWER, PROMPT

TOKENS, MEAN = METHODS["haif-rq"], METHODS["haif-r"]


def beginnings(name: str = "gpt2") -> list[Question]:
    """The leak's answer, and its first one and three tokens."""
    tracer = kit.tracer(name)
    _, whole = tracer.question(Leak(PROMPT, ANSWER), Asking())
    ids = whole.batch.ids_BT[0].tolist()
    first = int(whole.batch.labels_BT[0].int().argmax())
    parts = []
    for length in (1, 3):
        labels = [first <= place for place in range(first + length)]
        batch = make_batch([ids[: first + length]], [labels])
        parts.append(Question(batch, tracer.engine))
    return [*parts, whole]


def test_answers_that_begin_alike_share_the_directions_of_their_tokens():
    one, three, whole = beginnings()
    sides = [side for question in (one, three, whole) for side in sides_of(TOKENS, question)]
    kept, places = distinct(sides)
    count = int(whole.batch.labels_BT.sum())
    assert len(kept) == count
    assert places.tolist() == [0, *range(3), *range(count)]
    assert [kept[place].asks for place in places] == [side.asks for side in sides]


def test_other_weights_or_other_tokens_before_are_another_direction():
    one, three, whole = beginnings()
    means = [side for question in (one, three, whole) for side in sides_of(MEAN, question)]
    assert len(distinct(means)[0]) == 3
    # The mean over a single token is that token's own.
    assert len(distinct([means[0], *sides_of(TOKENS, three)])[0]) == 3
    other = whole.batch.ids_BT[0].tolist()
    other[0] += 1
    moved = Question(make_batch([other], whole.batch.labels_BT.tolist()), whole.engine)
    assert len(distinct([*sides_of(TOKENS, whole), *sides_of(TOKENS, moved)])[0]) == 2 * int(
        whole.batch.labels_BT.sum()
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shared_directions_are_those_of_each_question_alone(name):
    """Gradients and projections of the shortest question that has a token are those of any."""
    tracer, questions = kit.tracer(name), beginnings(name)
    engine = tracer.engine_over("attention")
    projector = engine.projector(64, 0)
    with kit.precisely():
        sides = [side for question in questions for side in sides_of(TOKENS, question)]
        kept, places = distinct(sides)
        for alone, shared in zip(
            unit_directions(engine, sides).values(),
            unit_directions(engine, kept).values(),
            strict=True,
        ):
            np.testing.assert_allclose(alone, shared[places.tolist()], rtol=1e-9, atol=1e-12)
        vectors = vectors_of(kept, engine, projector)[places]
        each = [vectors_of(sides_of(TOKENS, q), engine, projector) for q in questions]
        np.testing.assert_allclose(vectors, np.concatenate(each), rtol=1e-5, atol=1e-6)


def test_methods_together_score_what_each_scores_alone(monkeypatch):
    tracer, questions = kit.tracer(), beginnings()
    formed = []
    unit = late.unit_directions

    def counted(engine, sides):
        formed.append(len(sides))
        return unit(engine, sides)

    monkeypatch.setattr(late, "unit_directions", counted)
    names = ["haif-r", "haif-rq", "haif-li"]
    with kit.precisely():
        together = tracer.score_many(questions, names, MethodSettings(), Silent())
        tokens = int(questions[-1].batch.labels_BT.sum())
        # Each token once, and the means over three and over all of them.
        assert sum(formed) == tokens + 2
        for method in find_methods(",".join(names)):
            for place, question in enumerate(questions):
                alone = tracer.score_many([question], [method.name], MethodSettings(), Silent())
                np.testing.assert_allclose(
                    together[method.name][place], alone[method.name][0], rtol=1e-9, atol=1e-12
                )
