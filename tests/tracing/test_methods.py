"""Every influence function through the whole pipeline, against definitions on dense gradients."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from haiftrace.errors import UsageError
from haiftrace.index.precompute import prepare
from haiftrace.methods import METHODS, Adjustment, find_methods
from haiftrace.methods.settings import (
    DampingSetting,
    FactorSettings,
    MethodSettings,
    SeriesSettings,
)
from haiftrace.progress import Silent
from haiftrace.scoring.batches import batch_of
from tests import kit
from tests.tiny_models import SENTENCES
from tests.tracing.methods_kit import (
    EMPIRICAL,
    RATES,
    Notes,
    along,
    reopened,
    run,
    scores,
    trace,
    unit,
    without_casts,
)


@cache
def inverse(name: str = "gpt2", damping: DampingSetting = EMPIRICAL.damping):
    """(H + d)⁻¹ of rows [N, P], from the tracer's own factors (proved in test_curvature)."""
    over = kit.tracer(name)
    settings = MethodSettings(factors=FactorSettings("empirical", damping=damping))
    with kit.precisely():
        metric = over.session.model.curvature(settings, Silent()).inverse
    oracle = kit.oracle(name)

    def apply(rows: Tensor) -> Tensor:
        parts = oracle.split(rows)
        done = [metric.apply({n: p[i] for n, p in parts.items()}) for i in range(len(rows))]
        return torch.stack([torch.cat([d[n].flatten() for n in oracle.shapes]) for d in done])

    return apply


@pytest.mark.parametrize("name", ["gpt2", "qwen2-tied", "llama"])
def test_methods_with_ek_facs_inverse_are_those_of_the_definition(name):
    apply, v = inverse(name), kit.answer_gradient(name)
    gradients = kit.oracle(name).gradients[:-1]
    steep = [apply(rows) for rows in gradients]
    found = trace(kit.tracer(name), "ek-fac,relatif,ahif", factors=EMPIRICAL)
    right = {
        "ek-fac": [v @ rows.mean(0) for rows in steep],
        "relatif": [v @ unit(rows.mean(0)) for rows in steep],
        "ahif": [v @ unit(unit(rows).sum(0)) for rows in steep],
    }
    for method, expected in right.items():
        kit.close(scores(found[method]), expected)
        assert found[method].exhaustive
    for record in found["relatif"].records + found["ahif"].records:
        assert record.cosine == pytest.approx(record.score / float(v.norm()), rel=1e-9)
    u = apply(v.unsqueeze(0))[0]
    for record in found["ek-fac"].records:
        mean = gradients[int(record.id[1:])].mean(0)
        cosine = float(unit(u) @ unit(mean))
        assert record.cosine == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("damping", ["1e-3", "0.01x", "10x"])
def test_a_damping_is_taken_as_it_is_given(damping):
    parsed = DampingSetting.parse(damping)
    found = trace(kit.tracer(), "ek-fac", factors=FactorSettings("empirical", damping=parsed))
    rows = torch.stack([rows.mean(0) for rows in kit.oracle().gradients[:-1]])
    kit.close(scores(found["ek-fac"]), inverse("gpt2", parsed)(rows) @ kit.answer_gradient())


@pytest.mark.parametrize("memory", [1, 512 << 20])  # a block of one window, or of all
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_methods_along_a_training_run_are_those_of_the_definition(name, memory):
    over = reopened(kit.index_path(name), name, memory)
    without_casts(over.session.model.engine)
    before = {n: p.clone() for n, p in over.checkpoint.model.named_parameters()}
    found = trace(over, "tracincp,attif", checkpoints=run(name))
    v, steps = kit.answer_gradient(name), along(run(name))
    tracincp, attif = [], []
    for k in range(len(SENTENCES)):
        pairs = zip(RATES, steps, strict=True)
        tracincp.append(
            sum(rate * (asked.mean(0) @ rows[k].mean(0)) for rate, (rows, asked) in pairs)
        )
        pairs = zip(RATES, steps, strict=True)
        attif.append(v @ unit(sum(rate * unit(rows[k]).sum(0) for rate, (rows, _) in pairs)))
    kit.close(scores(found["tracincp"]), tracincp)
    kit.close(scores(found["attif"]), attif)
    assert all(record.cosine is None for record in found["tracincp"].records)
    for record in found["attif"].records:
        assert record.cosine == pytest.approx(record.score / float(v.norm()), rel=1e-9)
    for n, p in over.checkpoint.model.named_parameters():
        assert torch.equal(p, before[n]), n


@pytest.mark.parametrize("kept", [False, True])
def test_a_run_that_ends_at_the_indexed_checkpoint_has_its_norms(tmp_path, monkeypatch, kept):
    """From where they are kept, else computed; never those of the direct gradients."""
    path = with_haif_norms(tmp_path / "index") if kept else kit.index_path()
    over = reopened(path)
    without_casts(over.session.model.engine)
    computed = []
    token_gradients = over.session.model.engine.token_gradients
    monkeypatch.setattr(
        over.session.model.engine,
        "token_gradients",
        lambda batch: computed.append(1) or token_gradients(batch),
    )
    rates = (0.3, 0.05)
    checkpoints = f"{run('gpt2').partition(',')[0]},{kit.checkpoint_path()}:{rates[1]}"
    found = trace(over, "attif", checkpoints=checkpoints)
    v, steps = kit.answer_gradient(), along(checkpoints)
    right = []
    for k in range(len(SENTENCES)):
        pairs = zip(rates, steps, strict=True)
        right.append(v @ unit(sum(rate * unit(rows[k]).sum(0) for rate, (rows, _) in pairs)))
    kit.close(scores(found["attif"]), right)
    assert len(computed) == (1 if kept else 2)


def with_haif_norms(path: Path) -> Path:
    """An index that holds the token norms of full gradients."""
    shutil.copytree(kit.index_path(), path)
    with kit.precisely():
        prepare(path, kit.checkpoint(), "haif", MethodSettings(), 512 << 20, Silent())
    return path


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_adjustment_weights_tokens_in_every_method_of_the_family(power):
    v, gradients = kit.answer_gradient(), kit.oracle().gradients[:-1]

    def adjusted(rows: Tensor) -> Tensor:
        norms = rows.norm(dim=1, keepdim=True)
        return rows * torch.where(norms > 0, norms.clamp_min(1e-300) ** -power, 0.0)

    found = trace(
        kit.tracer(),
        "haif,haif-t,ahif,attif,gradient-cosine",
        adjustment=Adjustment(power),
        factors=EMPIRICAL,
        checkpoints=run("gpt2"),
    )
    steep = [inverse()(rows) for rows in gradients]
    paired = [
        list(zip(RATES, (rows[k] for rows, _ in along(run("gpt2"))), strict=True))
        for k in range(12)
    ]
    right = {
        "haif": [v @ unit(adjusted(rows).sum(0)) for rows in gradients],
        "haif-t": [v @ adjusted(rows).sum(0) for rows in gradients],
        "ahif": [v @ unit(adjusted(rows).sum(0)) for rows in steep],
        "attif": [v @ unit(sum(rate * adjusted(rows).sum(0) for rate, rows in p)) for p in paired],
    }
    for method, expected in right.items():
        kit.close(scores(found[method]), expected)
    if power == 0:
        ranked = [[r.id for r in found[m].records] for m in ("haif", "gradient-cosine")]
        assert ranked[0] == ranked[1]


def test_a_soft_adjustment_takes_its_quantile_from_the_whole_corpus(tmp_path):
    over = reopened(with_haif_norms(tmp_path / "index"))
    gradients = kit.oracle().gradients[:-1]
    norms = torch.cat([rows.norm(dim=1) for rows in gradients]).numpy()
    c = float(np.quantile(norms, 0.3))
    found = trace(over, "haif", adjustment=Adjustment(quantile=0.3))
    sums = [(rows / (rows.norm(dim=1, keepdim=True) + c)).sum(0) for rows in gradients]
    kit.close(scores(found["haif"]), [kit.answer_gradient() @ unit(s) for s in sums])


@pytest.mark.parametrize("combine", ["positive", "max"])
def test_tokens_are_combined_as_said(combine):
    found = trace(kit.tracer(), "haif,haif-t", combine=combine)
    v = kit.answer_gradient()
    each = [unit(rows) @ v for rows in kit.oracle().gradients[:-1]]
    right = {
        "positive": [e.clamp_min(0).mean() for e in each],
        "max": [e.max() for e in each],
    }[combine]
    for finding in found.values():
        kit.close(scores(finding), right)


ONE_MATRIX = r"layers\.1\.self_attn\.k_proj"
"""512 parameters: few enough for a dense curvature."""


@cache
def dense_curvature() -> Tensor:
    """The Gauss-Newton matrix of the corpus' mean loss, column by column (see test_hessian)."""
    over = kit.tracer("llama", parameters=ONE_MATRIX)
    engine = over.session.model.engine
    batch = batch_of(list(over.index.iter_windows()), engine.device)
    labels = batch.labels_BT.double()
    weights = labels / labels.sum(1, keepdim=True) / batch.size
    ((name, value),) = engine.parameters.items()
    columns = []
    for basis in torch.eye(value.numel(), dtype=torch.float64):
        direction = {name: basis.reshape(value.shape)}
        with kit.precisely():
            product = over.session.model.engine.curvature_product(
                batch, weights, direction, "gauss-newton"
            )
        columns.append(product[name].flatten())
    return torch.stack(columns, 1)


def test_lissa_is_the_damped_inverse_of_the_corpus_curvature():
    dense = dense_curvature()
    assert float((dense - dense.T).abs().max()) < 1e-9 * float(dense.abs().max())
    damping = 0.05 * float(torch.linalg.eigvalsh(dense)[-1])
    v = kit.answer_gradient("llama", ONE_MATRIX)
    u = torch.linalg.solve(dense + damping * torch.eye(len(dense), dtype=torch.float64), v)
    right = np.array([float(u @ r.mean(0)) for r in kit.oracle("llama", ONE_MATRIX).gradients[:-1]])
    distance = []
    for depth in (10, 100, 400):
        series = SeriesSettings(
            depth=depth, damping=DampingSetting(damping, False), batch=len(SENTENCES)
        )
        over = kit.tracer("llama", parameters=ONE_MATRIX)
        found = scores(trace(over, "lissa", series=series)["lissa"])
        distance.append(np.abs(found - right).max() / np.abs(right).max())
    assert distance[0] > 10 * distance[1] > 100 * distance[2]
    assert distance[2] < 1e-6


def test_a_series_that_diverges_gives_no_scores():
    over = kit.tracer("llama", parameters=ONE_MATRIX)
    with pytest.raises(UsageError, match="diverges") as caught:
        trace(over, "lissa,haif", series=SeriesSettings(scale=1e-6))
    assert "--scale auto" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_series_that_leaves_much_unsolved_says_so():
    over = kit.tracer("llama", parameters=ONE_MATRIX)
    found = trace(over, "lissa,haif", notes := Notes(), series=SeriesSettings(depth=3, batch=12))
    assert any("left unsolved" in note for note in found["lissa"].notes)
    assert not any("LiSSA" in note for note in found["haif"].notes)
    assert any("3 steps" in line for line in notes.said)


ALL = ",".join(name for name in METHODS if name != "lissa")


@pytest.fixture(scope="module")
def all_at_once():
    return trace(kit.tracer(), ALL, factors=EMPIRICAL, checkpoints=run("gpt2"))


@pytest.mark.parametrize("method", ALL.split(","))
def test_several_methods_in_one_pass_are_each_alone(method, all_at_once):
    (alone,) = trace(kit.tracer(), method, factors=EMPIRICAL, checkpoints=run("gpt2")).values()
    together = all_at_once[method]
    assert [r.id for r in alone.records] == [r.id for r in together.records]
    kit.close(scores(together), scores(alone), 1e-12)
    assert list(all_at_once) == ALL.split(",")


@pytest.mark.parametrize("method", ALL.split(","))
def test_evidence_sums_to_the_score(method, all_at_once):
    for record in all_at_once[method].records:
        evidence = [token.evidence for token in record.tokens]
        size = sum(map(abs, evidence))
        assert sum(evidence) == pytest.approx(record.score, abs=1e-9 * size)


def test_search_by_words_finds_the_words(all_at_once):
    best = {m.name: all_at_once[m.name].records[0] for m in find_methods("bm25,bm25-answer")}
    assert {record.id for record in best.values()} == {"r1"}
    assert all(record.cosine is None for record in best.values())
    carrying = [t.text for t in best["bm25-answer"].tokens if t.evidence > 0]
    assert set("".join(carrying)) <= set(" 555-0142.")
    nothing = trace(kit.tracer(), "bm25-answer")["bm25-answer"]
    assert METHODS[nothing.method].family == "lexical"


def test_no_method_computes_gradients_of_a_kind_that_it_does_not_look_at():
    """A model of any size has full gradients of its own size, and may have no direct ones."""
    over = reopened(kit.index_path())
    trace(over, "bm25,bm25-answer")
    assert not {"engine", "similarity"} & vars(over.session.model).keys()
    trace(over, "layerwise")
    assert "engine" not in vars(over.session.model)
    over = reopened(kit.index_path())
    trace(over, "haif")
    assert "similarity" not in vars(over.session.model)


# Bad input.


def test_a_damping_that_leaves_a_factor_singular_is_refused():
    none = FactorSettings("empirical", damping=DampingSetting.parse("0"))
    with pytest.raises(UsageError, match="no inverse") as caught:
        trace(kit.tracer(), "ek-fac", factors=none)
    assert "--damping" in caught.value.hint


def test_a_scope_without_kronecker_factors_is_refused():
    with pytest.raises(UsageError, match="linear maps only") as caught:
        trace(kit.tracer("gpt2", parameters="all"), "ahif", factors=EMPIRICAL)
    assert "--parameters linear" in caught.value.hint


def test_a_training_run_has_to_be_named():
    with pytest.raises(UsageError, match="needed for tracincp, attif") as caught:
        trace(kit.tracer(), "tracincp,attif")
    assert "--checkpoints" in caught.value.hint
