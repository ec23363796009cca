"""A tiny GPT-2 trained until its corpus is memorised.

A few tokens then hold nearly all of a record's squared gradient norm, methods that do not adjust
token gradients collapse, and HAIF holds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from haiftrace.bench.ablation import DEFAULT
from haiftrace.bench.indexes import Bench
from haiftrace.bench.pii.ranking import ranks_of
from haiftrace.bench.pii.run import leaks_of
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.loop import Schedule
from haiftrace.bench.training.presets import find_preset
from haiftrace.progress import Silent
from tests.bench.trainings import train_in

OTHERS = ("gradient-product", "gradient-cosine", "ek-fac")
SCHEDULE = Schedule(epochs=150, batch=20, learning_rate=3e-3, weight_decay=0.1)


@pytest.mark.slow
def test_haif_holds_where_the_corpus_is_memorised(tmp_path: Path):
    preset = replace(find_preset("tiny", "pii-e"), subjects=75, kept=4, schedule=SCHEDULE)
    data = make_data("pii-e", "en_US", preset.subjects, preset.per_subject, 0)
    trained = train_in(data, preset, "gpt2", 0, tmp_path, Silent())
    assert trained.metrics("memorised").record_loss < 0.06
    leaks = leaks_of(data, trained, "memorised")
    assert len(leaks) >= 40
    bench = Bench(tmp_path, data, trained, "memorised", 1 << 29, Silent())
    fractions = []
    for window in bench.tracer("linear", "all").index.iter_windows():
        squares = np.sort(np.square(window.token_grad_norm))
        fractions.append(squares[-3:].sum() / squares.sum())
    assert np.mean(fractions) > 0.9
    bench.prepare(OTHERS)
    scores = bench.scores(leaks, DEFAULT, ["haif", *OTHERS])
    all_ranks = ranks_of(scores, data, leaks, DEFAULT, "memorised", 0)
    top1 = {ranks.method: float(np.mean(np.equal(ranks.ranks, 1))) for ranks in all_ranks}
    print(f"{len(leaks)} leaks, three tokens hold {np.mean(fractions):.3f}, top-1 {top1}")
    for other in OTHERS:
        assert top1["haif"] > 2 * top1[other], top1
