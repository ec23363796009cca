"""Norms and projections over several scopes from one backward pass, against each scope alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from haiftrace.corpus import CorpusSettings
from haiftrace.engine import GradientEngine, inverse_norms, make_batch
from haiftrace.errors import UsageError
from haiftrace.index import IndexSettings, build_index
from haiftrace.scopes import parse_scopes, select_parameters
from haiftrace.store import Index
from tests import kit, tiny_models
from tests.oracle import Oracle, TrueFloat64

ARCHITECTURES = ("gpt2", "gpt-neox", "qwen2-tied", "llama")


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_scope_has_its_own_norms_and_projections(name, batched):
    """Scopes that overlap, one of them the part of a matrix that another has whole."""
    model = tiny_models.trained(name).double()
    records = tiny_models.records(name)[:3]
    scopes = {s: select_parameters(model, s) for s in ("attention", "value", "mlp", "all")}
    union = list(dict.fromkeys(key for keys in scopes.values() for key in keys))
    with TrueFloat64():
        oracle = Oracle.of(model, records)
        engine = GradientEngine(model, union)
        if not batched:
            engine.support = replace(engine.support, batched=False)
        projectors = {"attention": None, "value": engine.projector(32, 0), "mlp": None}
        projectors["all"] = engine.projector(16, 1)
        found = engine.scoped_token_gradients(
            make_batch(records), [(keys, projectors[s]) for s, keys in scopes.items()]
        )
    for (scope, keys), tokens in zip(scopes.items(), found, strict=True):
        alone, projector = oracle.over(keys), projectors[scope]
        assert (tokens.vectors_BTD is None) == (projector is None)
        for row, (gradients, losses) in enumerate(zip(alone.gradients, alone.losses, strict=True)):
            count = len(gradients)
            norms = gradients.norm(dim=1)
            kit.close(tokens.losses_BT[row, 1 : count + 1], losses)
            kit.close(tokens.norms_BT[row, 1 : count + 1], norms)
            assert not tokens.norms_BT[row, count + 1 :].any()
            if projector is not None:
                units = gradients * inverse_norms(norms).unsqueeze(1)
                ours = tokens.vectors_BTD[row, 1 : count + 1]
                kit.close(ours, alone.project(units, projector))


def test_a_list_of_names_is_several_scopes_and_an_expression_is_one():
    assert parse_scopes("linear,attention, value,linear") == ["linear", "attention", "value"]
    assert parse_scopes("all") == ["all"]
    assert parse_scopes(r"attn.{1,2}weight") == [r"attn.{1,2}weight"]


@pytest.mark.parametrize("scopes", ["linear,attention,value", "value,attention"])
def test_an_index_keeps_the_norms_of_several_scopes(scopes, tmp_path):
    """Also of scopes that reach beyond the first; vectors of tokens are of the second."""
    own, *further = scopes.split(",")
    model, corpus = kit.checkpoint(), kit.corpus_path()
    with kit.precisely():
        kit.make_index(tmp_path / "index", corpus, model, parameters=scopes)
    with Index.open(tmp_path / "index") as index:
        assert index.settings["scope"] == own
        assert index.settings["norm_scopes"] == further
        assert index.settings["token_scope"] == further[0]
        for row in index.iter_windows(token_vectors=True):
            kit.close(row.token_grad_norm[1:], _norms(own, row.record))
            assert list(row.scope_norms) == further
            for scope, kept in row.scope_norms.items():
                kit.close(kept[1:], _norms(scope, row.record))
                assert not kept[0]
            oracle = kit.oracle(scope=further[0])
            gradients = oracle.gradients[row.record]
            units = gradients / gradients.norm(dim=1, keepdim=True)
            projector = kit.tracer().engine.projector(kit.SMALL["token_vectors"], 0)
            kit.close(row.token_vectors[1:], oracle.project(units, projector), kit.HALF_A_STEP)


def test_a_further_scope_that_the_model_lacks_is_left_out_with_a_word(tmp_path, monkeypatch):
    from haiftrace import scopes

    said = []

    class Listening(kit.Silent):
        def say(self, text):
            said.append(text)

    monkeypatch.setitem(scopes.SCOPES, "value", lambda place: "")
    settings = IndexSettings(
        output=tmp_path / "index", **{**kit.SMALL, "parameters": "linear,value"}
    )
    build_index(kit.checkpoint(), CorpusSettings((str(kit.corpus_path()),)), settings, Listening())
    assert any("value" in text and "No norms are kept" in text for text in said)
    with Index.open(tmp_path / "index") as index:
        assert index.layout.norm_scopes == ()
        assert "token_scope" not in index.settings
    with pytest.raises(UsageError):
        kit.make_index(tmp_path / "other", kit.corpus_path(), parameters="value,linear")


def _norms(scope, record):
    return kit.oracle(scope=scope).gradients[record].norm(dim=1)
