"""Tracing through the whole pipeline: scores against the oracle, shortlists, windows, freshness."""

from __future__ import annotations

import json
import shutil
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.engine import inverse_norms
from haiftrace.errors import CheckpointError, IndexStoreError, StaleIndexError, UsageError
from haiftrace.progress import Silent
from haiftrace.scoring import batches
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import Index, IndexWriter
from haiftrace.tracing.evidence import WEAK_LOSS
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import open_tracer
from tests import kit
from tests.engine.direct.direct_oracle import direct_truth
from tests.kit import ANSWER, PROMPT, traced, tracer
from tests.oracle import token_gradient_matrix
from tests.tiny_models import SENTENCES

MODELS = ("gpt2", "qwen2-tied", "llama")
METHODS = ("haif", "haif-t", "gradient-product", "gradient-cosine")
"""Those that need nothing beside an index's rows; for the others see test_trace_methods."""


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows * inverse_norms(rows.norm(dim=-1)).unsqueeze(-1)


def right_scores(method: str, gradients, v: torch.Tensor) -> list[float]:
    """By definition, from whole gradients: one a record."""
    scores = {
        "haif": lambda rows: unit(unit(rows).sum(0)) @ v,
        "haif-t": lambda rows: unit(rows).sum(0) @ v,
        "gradient-product": lambda rows: rows.mean(0) @ v,
        "gradient-cosine": lambda rows: unit(rows.mean(0)) @ unit(v),
    }
    return [float(scores[method](rows)) for rows in gradients]


def by_id(finding):
    return {record.id: record for record in finding.records}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_oracles_through_the_whole_pipeline(name, method):
    finding = traced(tracer(name), method=method)
    oracle = kit.oracle(name)
    v = kit.answer_gradient(name)
    right = right_scores(method, oracle.gradients[:-1], v)
    found = by_id(finding)
    assert len(found) == len(SENTENCES)
    kit.close([found[f"r{i}"].score for i in range(len(right))], right)
    sums = {
        "haif": lambda rows: unit(unit(rows).sum(0)),
        "haif-t": lambda rows: unit(rows).sum(0),
        "gradient-product": lambda rows: rows.mean(0),
        "gradient-cosine": lambda rows: rows.mean(0),
    }[method]
    cosines = [float(unit(sums(rows)) @ unit(v)) for rows in oracle.gradients[:-1]]
    kit.close([found[f"r{i}"].cosine for i in range(len(right))], cosines)
    assert [r.rank for r in finding.records] == list(range(1, len(right) + 1))
    scores = [r.score for r in finding.records]
    assert scores == sorted(scores, reverse=True)


def direct_norms(name: str, ids: list[int]) -> torch.Tensor:
    """[M] of each label's direct gradients in the layers that judge, inputs whitened as in the
    index."""
    ((matrices, _),) = tracer(name).index.supplement_tensors(WHITENING)
    first = tracer(name).session.model.similarity.first_layer
    whitening = [None] * first + [matrices[str(n)].double() for n in range(len(matrices))]
    with kit.precisely():
        layers = direct_truth(name, kit.checkpoint(name).model, ids).gradients(whitening)
    return torch.cat([layer.flatten(1) for layer in layers[first:]], 1).norm(dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_report_says_of_each_token(name):
    oracle = kit.oracle(name)
    tokenizer = kit.checkpoint(name).tokenizer
    v = kit.answer_gradient(name)
    dots = [unit(rows) @ v / unit(rows).sum(0).norm() for rows in oracle.gradients[:-1]]
    size = max(float(d.abs().max()) for d in dots)
    for record_id, record in by_id(traced(tracer(name))).items():
        number = int(record_id[1:])
        ids = tokenizer(SENTENCES[number])["input_ids"]
        assert [t.token_id for t in record.tokens] == ids
        assert [t.position for t in record.tokens] == list(range(len(ids)))
        assert record.text == SENTENCES[number]
        assert "".join(t.text for t in record.tokens) == record.text
        first, *others = record.tokens
        assert (first.loss, first.grad_norm, first.evidence) == (0.0, 0.0, 0.0)
        kit.close([t.grad_norm for t in others], direct_norms(name, ids), 1e-6)
        kit.close([t.loss for t in others], oracle.losses[number], 1e-6)  # kept as float32
        evidence = np.array([t.evidence for t in others])
        assert np.abs(evidence - dots[number].numpy()).max() <= 1e-9 * size


def test_another_scope_gives_its_own_exact_scores():
    finding = traced(tracer("gpt2", parameters="all"))
    v = kit.answer_gradient("gpt2", "all")
    right = right_scores("haif", kit.oracle("gpt2", "all").gradients[:-1], v)
    kit.close([by_id(finding)[f"r{i}"].score for i in range(len(right))], right)
    assert finding.records[0].score != traced().records[0].score


@pytest.mark.parametrize("method", METHODS)
def test_evidence_sums_to_the_score_and_cosines_stay_in_their_range(method):
    for over in (tracer(), tracer("llama"), tracer(context=8), tracer("gpt2", "float32")):
        for record in traced(over, method=method).records:
            evidence = [t.evidence for t in record.tokens]
            assert sum(evidence) == pytest.approx(record.score, abs=1e-9 * sum(map(abs, evidence)))
            assert -1 <= record.cosine <= 1


def test_float32_agrees_with_float64():
    single, double = traced(tracer("gpt2", "float32")), traced()
    ids = [f"r{i}" for i in range(len(SENTENCES))]
    found, right = by_id(single), by_id(double)
    kit.close([found[i].score for i in ids], [right[i].score for i in ids], 1e-3)


@pytest.mark.parametrize(("context", "candidates"), [(None, 3), (8, 25)])
@pytest.mark.parametrize("method", ["haif", "haif-t"])
def test_a_shortlist_gives_the_scores_that_exact_gives(method, context, candidates):
    over = tracer() if context is None else tracer(context=context)
    short = traced(over, method=method, candidates=candidates)
    exact = traced(over, method=method, candidates=candidates, exact=True)
    assert short.scored == candidates < len(over.index)
    assert not short.exhaustive
    assert exact.scored == len(over.index)
    assert exact.exhaustive
    right = by_id(exact)
    pairs = [(record, right[record.id]) for record in short.records]
    same = [(a, b) for a, b in pairs if a.window_start == b.window_start]
    assert len(same) >= 3
    kit.close([a.score for a, _ in same], [b.score for _, b in same], 1e-12)
    assert all(a.score <= b.score + 1e-12 for a, b in pairs)
    assert [a.tokens[-1].position for a, _ in same] == [b.tokens[-1].position for _, b in same]


def test_top_cuts_the_list_and_nothing_else():
    whole = traced(top=100).records
    assert len(whole) == len(SENTENCES)
    for top in (1, 3):
        assert traced(top=top).records == whole[:top]


def test_many_windows_are_ranked_in_bounded_memory_as_if_all_were_kept(monkeypatch):
    over = tracer(context=8)
    whole = traced(over).records
    monkeypatch.setattr(batches, "READ_AHEAD", 5)
    monkeypatch.setattr(batches, "BATCH_TOKENS", {"cpu": 16})
    assert [r.id for r in traced(over, top=3).records] == [r.id for r in whole[:3]]
    kit.close([r.score for r in traced(over).records], [r.score for r in whole], 1e-9)


# Windows


def test_a_record_of_several_windows_is_ranked_once_by_its_best():
    over = tracer(context=8)
    finding = traced(over)
    model = kit.checkpoint()
    v = kit.answer_gradient()
    best: dict[str, tuple[float, int]] = {}
    rows = [(w, token_gradient_matrix_of(model, w.token_ids)) for w in over.index.iter_windows()]
    assert len(rows) > len(SENTENCES)
    for window, gradients in rows:
        units = unit(gradients[window.labels[1:]])
        score = float(unit(units.sum(0)) @ v)
        best[window.id] = max(best.get(window.id, (-np.inf, 0)), (score, window.start))
    assert [r.id for r in finding.records] == sorted(best, key=lambda i: -best[i][0])
    kit.close([r.score for r in finding.records], [best[r.id][0] for r in finding.records])
    assert [r.window_start for r in finding.records] == [best[r.id][1] for r in finding.records]
    assert any(r.window_start > 0 for r in finding.records)


def token_gradient_matrix_of(model, ids):
    names = list(kit.oracle().shapes)
    chosen = [model.model.get_parameter(name) for name in names]
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        return token_gradient_matrix(model.model, names, ids)[1]
    finally:
        for parameter in chosen:
            parameter.requires_grad_(False)


def test_positions_are_the_records_and_offsets_those_of_the_shown_text():
    tokenizer = kit.checkpoint().tokenizer
    for record in traced(tracer(context=8)).records:
        sentence = SENTENCES[int(record.id[1:])]
        ids = tokenizer(sentence)["input_ids"]
        assert record.windows > 1
        assert record.tokens[0].position == record.window_start
        assert len(record.tokens) <= 8
        for token in record.tokens:
            assert token.token_id == ids[token.position]
            assert record.text[token.start : token.end] == token.text
        assert "".join(t.text for t in record.tokens) == record.text
        assert record.text in sentence
        assert record.source.line == int(record.id[1:]) + 1


# What the leak itself looks like


def test_the_response_stands_in_the_finding_with_its_losses():
    finding = traced()
    losses = kit.oracle().losses[-1]
    wanted = len(finding.response_tokens)
    assert "".join(t.text for t in finding.response_tokens) == f" {ANSWER}"
    kit.close([t.loss for t in finding.response_tokens], losses[-wanted:])
    assert finding.mean_loss == pytest.approx(float(losses[-wanted:].mean()))
    assert (finding.prompt, finding.response, finding.generated) == (PROMPT, ANSWER, False)
    assert finding.notes == ()


def test_a_response_that_the_model_would_hardly_say_is_weak_evidence():
    finding = traced(leak=Leak(PROMPT, "zebra quux"))
    assert finding.mean_loss > WEAK_LOSS
    assert any("weak evidence" in note for note in finding.notes)
    assert not any("zebra" in note for note in finding.notes)


def test_an_answer_that_is_given_back_is_traced_as_it_was_generated():
    said = traced(leak=Leak(PROMPT))
    again = traced(leak=Leak(PROMPT, said.response))
    assert said.generated
    assert [t.token_id for t in said.response_tokens] == [t.token_id for t in again.response_tokens]
    assert [r.id for r in said.records] == [r.id for r in again.records]
    kit.close([r.score for r in said.records], [r.score for r in again.records], 1e-12)
    assert said.mean_loss == pytest.approx(again.mean_loss)


def test_several_leaks_make_one_report():
    report = tracer().report(
        [Leak(PROMPT, ANSWER), Leak(PROMPT, ANSWER, "0142")],
        TraceSettings("haif,haif-t", top=2),
        Silent(),
        "a command",
    )
    assert [f.span for f in report.findings] == [None, None, "0142", "0142"]
    assert all(len(f.records) == 2 for f in report.findings)
    assert report.command == "a command"
    model, index = report.model, report.index
    assert (index.records, index.windows, index.scope) == (len(SENTENCES), len(SENTENCES), "linear")
    assert index.tokens == sum(len(losses) for losses in kit.oracle().losses[:-1])
    assert model.traced_parameters == sum(s.numel() for s in kit.oracle().shapes.values())
    assert model.scope == "linear"
    assert model.parameters == sum(p.numel() for p in kit.checkpoint().model.parameters())
    assert model.path == str(kit.checkpoint_path().resolve())
    assert model.dtype == "float64"


@pytest.mark.parametrize("settings", [{"top": 0}, {"candidates": 0}, {"method": "haif2"}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UsageError):
        traced(**settings)


# Freshness


@pytest.fixture
def own(tmp_path):
    """An index, checkpoint and corpus that a test may change."""
    corpus = shutil.copy(kit.corpus_path(), tmp_path / "data.jsonl")
    path = kit.copied_checkpoint(tmp_path / "model")
    kit.make_index(tmp_path / "index", corpus, load_checkpoint(path, device="cpu"))
    return tmp_path


def opened(own, model=None):
    return open_tracer(own / "index", model, "cpu")


def test_an_index_finds_its_own_checkpoint_in_its_own_number_format(own):
    assert opened(own).checkpoint.dtype == "float32"
    assert traced(opened(own)).records[0].score > 0


def test_one_changed_weight_makes_the_index_stale(own):
    file = own / "model" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).flatten()[0] += 1e-3
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(StaleIndexError, match="another checkpoint"):
        opened(own)
    assert StaleIndexError.exit_code == 3


def test_another_tokenizer_makes_the_index_stale(own):
    file = own / "model" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(StaleIndexError, match="another tokenizer"):
        opened(own)


def test_a_longer_corpus_makes_the_index_stale(own):
    with (own / "data.jsonl").open("a") as lines:
        lines.write('{"text": "One more."}\n')
    with pytest.raises(StaleIndexError, match="another corpus"):
        opened(own)


def test_a_corpus_that_is_gone_is_only_a_note(own):
    before = traced(opened(own))
    (own / "data.jsonl").unlink()
    after = traced(opened(own))
    (note,) = after.notes
    assert "corpus is not where it was" in note
    assert replace(after, notes=()) == before


def test_a_checkpoint_that_moved_is_named_anew(own):
    before = traced(opened(own))
    (own / "model").rename(own / "elsewhere")
    with pytest.raises(CheckpointError, match="no directory"):
        opened(own)
    assert astuple(traced(opened(own, str(own / "elsewhere")))) == astuple(before)


def test_another_checkpoint_is_told_before_it_is_loaded(own, monkeypatch):
    def loading(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("haiftrace.checkpoint.load.load_checkpoint", loading)
    with pytest.raises(StaleIndexError, match="another checkpoint"):
        opened(own, str(kit.checkpoint_path("llama")))


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_index_that_is_missing_or_unfinished_is_refused(own, tmp_path, monkeypatch):
    with pytest.raises(IndexStoreError, match="no index"):
        open_tracer(tmp_path / "none", None, "cpu")
    (own / "index").rename(own / "complete")
    model = load_checkpoint(own / "model")
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kit.make_index(own / "index", own / "data.jsonl", model)
    with pytest.raises(IndexStoreError, match="unfinished"):
        opened(own)


def test_the_index_is_read_only(own):
    files = sorted(p for p in (own / "index").rglob("*") if p.is_file())
    before = [(p, p.stat().st_mtime_ns, p.read_bytes()) for p in files]
    traced(opened(own), candidates=2)
    assert [(p, p.stat().st_mtime_ns, p.read_bytes()) for p in files] == before
    assert isinstance(Index.open(own / "index"), Index)
