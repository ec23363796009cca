"""A tiny GPT-2 trained until its corpus is memorised: where gradient norms are concentrated, HAIF
finds the record of a leak more often than methods that do not adjust token gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from haiftrace.bench.norm_profile import norm_profile
from haiftrace.bench.pii import make_data
from haiftrace.bench.pii_run import leaks_of
from haiftrace.bench.presets import find_preset
from haiftrace.bench.ranking import ranks_of
from haiftrace.bench.tracing import DEFAULT, Bench
from haiftrace.bench.training import MEMORISED_LOSS, train
from haiftrace.progress import Silent

OTHERS = ("gradient-product", "gradient-cosine", "ek-fac")


@pytest.mark.slow
def test_haif_holds_where_the_corpus_is_memorised(tmp_path: Path):
    preset = find_preset("tiny", "pii-e")
    data = make_data("pii-e", "en_US", preset.subjects, preset.per_subject, 0)
    trained = train(data, preset, "gpt2", 0, tmp_path, Silent())
    checked = trained.checked("memorised")
    assert checked.value_loss < 2 * MEMORISED_LOSS
    leaks = leaks_of(data, trained, "memorised")
    assert len(leaks) >= 30
    bench = Bench(tmp_path, data, trained, "memorised", 1 << 29, Silent())
    bench.keep(OTHERS)
    scores = bench.scores(leaks, DEFAULT, ["haif", *OTHERS])
    found = ranks_of(scores, data, leaks, DEFAULT, "memorised", 0)
    top1 = {ranks.method: float(np.mean(np.equal(ranks.ranks, 1))) for ranks in found}
    print(f"{len(leaks)} leaks, value loss {checked.value_loss:.3f}, top-1 {top1}")
    profile = norm_profile(bench.tracer("linear", "all").index, data, "memorised", 0)
    shares = {row["tokens"]: row["share"] for row in profile if "tokens" in row}
    print(f"shares of the squared norm {shares}")
    for other in OTHERS:
        assert top1["haif"] > top1[other], top1
