"""Scores and evidence of the layerwise rule against loops over explicit gradients."""

from __future__ import annotations

import math
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from haiftrace.errors import StaleIndexError
from haiftrace.methods import METHODS, Rule
from haiftrace.methods.layerwise import LEAST_DEVIATION
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.scoring.family import QueryScores, ScoringQuery, ScoringRun
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.layerwise.scoring_pass import LayerwiseSearch, ScoringPass
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests.engine.direct.direct_oracle import DirectTruth, direct_truth
from tests.kit import (
    ANSWER,
    PROMPT,
    SENTENCES,
    checkpoint,
    close,
    edit_manifest,
    index_path,
    oracle,
    precisely,
    traced,
    tracer,
)

MODELS = ("gpt2", "qwen2-tied", "mistral")


def _answer_places(name: str) -> tuple[list[int], list[int]]:
    """Token ids of the leak, and the places of its answer."""
    encoded = checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    places = [i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(PROMPT) + 1]
    return encoded["input_ids"], places


@cache
def _truths(name: str) -> list[DirectTruth]:
    """Of the sentences, and last of the leak's answer."""
    model = checkpoint(name)
    ids, places = _answer_places(name)
    with precisely():
        found = [
            direct_truth(name, model.model, model.tokenizer(text)["input_ids"])
            for text in SENTENCES
        ]
        return [*found, direct_truth(name, model.model, ids, places)]


def _whitening(name: str) -> list[torch.Tensor]:
    (found,) = tracer(name).index.supplement_tensors(WHITENING)
    matrices = found[0]
    return [matrices[str(layer)].double() for layer in range(len(matrices))]


@cache
def _cosines(name: str) -> list[np.ndarray]:
    """[L, M, Q] of each sentence, from explicit gradients."""
    units = []
    for truth in _truths(name):
        layers = [layer.flatten(1) for layer in truth.gradients(_whitening(name))]
        units.append([layer / layer.norm(dim=1, keepdim=True) for layer in layers])
    *records, query = units
    return [
        np.stack([(ours @ theirs.T).numpy() for ours, theirs in zip(record, query, strict=True)])
        for record in records
    ]


def _weights(losses_K: list[list[float]]) -> list[list[float]]:
    """How much each label of each record counts, by the rule's formulas; all are the reference."""
    surprise_K = []
    for losses in losses_K:
        surprised, each = 0.0, []
        for loss in losses:
            surprised = loss + 0.8 * surprised
            each.append(surprised)
        surprise_K.append(each)
    usual = float(np.median([sum(each) / len(each) for each in surprise_K]))
    return [[math.exp(-max(0.0, one - usual) / 4) for one in each] for each in surprise_K]


@cache
def _slow(name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Shares [K, Q, L] by the rule's formulas, and [L, M, Q] what pairs add to a pooled power."""
    pooled, powers = [], []
    every = _weights([truth.losses_J.tolist() for truth in _truths(name)[:-1]])
    for weights, cosines in zip(every, _cosines(name), strict=True):
        power = np.maximum(cosines, 0) ** 3 * np.array(weights)[None, :, None]
        powers.append(power)
        pooled.append((power.sum(1) / math.sqrt(power.shape[1])) ** (1 / 3))
    pooled_KLQ = np.stack(pooled)
    median = np.median(pooled_KLQ, 0)
    deviation = np.maximum(pooled_KLQ.std(0), LEAST_DEVIATION)
    shares = np.maximum(0, (pooled_KLQ - median) / deviation) ** 2
    return shares.transpose(0, 2, 1), powers


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_rules(name: str) -> None:
    shares_KQL, _ = _slow(name)
    finding = traced(tracer(name), method="layerwise")
    assert len(finding.records) == len(SENTENCES)
    right = {f"r{k}": float(shares.sum()) for k, shares in enumerate(shares_KQL)}
    ours = {record.id: record.score for record in finding.records}
    names = sorted(right)
    close([ours[n] for n in names], [right[n] for n in names], 1e-5)
    ranked = [record.id for record in finding.records]
    assert ranked == sorted(ranked, key=lambda n: -ours[n])


@pytest.mark.parametrize("name", MODELS)
def test_evidence_is_what_pairs_tokens_and_layers_add(name: str) -> None:
    shares_KQL, powers = _slow(name)
    _, places = _answer_places(name)
    finding = traced(tracer(name), method="layerwise")
    for record in finding.records:
        k = int(record.id[1:])
        power_LMQ, shares_QL = powers[k], shares_KQL[k]
        sums = power_LMQ.sum(1, keepdims=True)
        divided = np.divide(power_LMQ, sums, out=np.zeros_like(power_LMQ), where=sums > 0)
        pairs_MQ = np.einsum("lmq,ql->mq", divided, shares_QL)
        evidence = [token.evidence for token in record.tokens]
        assert evidence[0] == 0.0  # nothing predicts the first token
        close(evidence[1:], pairs_MQ.sum(1), 1e-5)
        assert sum(evidence) == pytest.approx(record.score, rel=1e-9)
        close(record.layers, shares_QL.sum(0), 1e-5)
        assert sum(record.layers) == pytest.approx(record.score, rel=1e-9)
        for pair in record.pairs:
            q = [places.index(place) for place in pair.response_positions]
            m = [place - 1 for place in pair.record_positions if place]
            assert pair.evidence == pytest.approx(pairs_MQ[np.ix_(m, q)].sum(), rel=1e-4)


def test_whitening_is_the_damped_inverse_root_of_the_second_moment() -> None:
    name = "gpt2"
    model = checkpoint(name)
    inputs: list[list[torch.Tensor]] = []
    with precisely():
        for text in SENTENCES:
            ids = model.tokenizer(text)["input_ids"]
            # One token more, so that the last one is read too.
            inputs.append(direct_truth(name, model.model, [*ids, ids[0]], [1]).inputs)
    for layer, ours in enumerate(_whitening(name)):
        rows = torch.cat([record[layer] for record in inputs])
        moment = rows.T @ rows / len(rows)
        damped = moment + 0.1 * moment.trace() / len(moment) * torch.eye(len(moment)).double()
        close(ours @ damped @ ours, torch.eye(len(moment)), 1e-5)


def test_candidates_change_no_score() -> None:
    everything = {r.id: r.score for r in traced(method="layerwise", exact=True).records}
    few = traced(method="layerwise", candidates=3)
    assert few.exhaustive  # the reference holds every window of so small an index
    assert {r.id: r.score for r in few.records} == pytest.approx(everything, rel=1e-9)


def test_only_what_is_wanted_is_scored_beside_the_reference() -> None:
    over = tracer()
    question, everything = _question(), range(len(over.index))
    with precisely():
        sample = ReferenceSample(over.index, 5)
        few, every = (_scores(over, question, rows, sample) for rows in ([2, 7], everything))
    assert few.rows_K.tolist() == sorted({2, 7, *sample.rows})
    assert len(sample.rows) == 5
    close(few.scores_K, every.of(few.rows_K.tolist()))


def test_questions_share_passes_and_change_nothing_of_each_other() -> None:
    leaks = [Leak(PROMPT, ANSWER), Leak("Ines Quillfeather was born in", "Brackwater")]
    settings = TraceSettings(method="layerwise", top=100)
    with precisely():
        together = list(tracer().trace_all(leaks, settings, Silent()))
        alone = [tracer().trace(leak, settings, Silent()) for leak in leaks]
    for (ours,), (right,) in zip(together, alone, strict=True):
        for one, other in zip(ours.records, right.records, strict=True):
            assert one.id == other.id
            assert one.score == pytest.approx(other.score, rel=1e-9)
            close([t.evidence for t in one.tokens], [t.evidence for t in other.tokens])


def test_memory_divides_queries_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session = tracer().session
    everything = [range(len(session.model.index))] * 3
    queries = [ScoringQuery(_question(record)) for record in (0, 3, 7)]
    run, passes = ScoringRun(MethodSettings(), Rule(), Silent()), []
    score = ScoringPass.score
    monkeypatch.setattr(
        ScoringPass, "score", lambda *arguments: passes.append(1) or score(*arguments)
    )
    scored = []
    for room in (1 << 30, 1):
        monkeypatch.setattr(session.model, "room", room)
        with precisely():
            scored.append(session.scores(queries, everything, METHODS["layerwise"], run))
        assert len(passes) == (1 if room > 1 else 4)
    for ours, right in zip(*scored, strict=True):
        close(ours.scores_K, right.scores_K)


def test_full_gradients_take_the_place_of_direct_ones() -> None:
    """BLOOM's attention cannot be followed: one layer of full gradients is judged."""
    name = "bloom"
    over = tracer(name)
    assert over.index.settings["gradients"] == "full"
    gradients = oracle(name, over.index.settings["scope"]).gradients
    _, places = _answer_places(name)
    units = [g / g.norm(dim=1, keepdim=True) for g in gradients]
    query = units[-1][[place - 1 for place in places]]
    with precisely():
        finding = traced(over, method="layerwise")
    pooled = []
    records = sorted(finding.records, key=lambda r: int(r.id[1:]))
    every = _weights([[token.loss for token in record.tokens[1:]] for record in records])
    for unit, weights in zip(units, every, strict=False):
        power = np.maximum((unit @ query.T).numpy(), 0) ** 3 * np.array(weights)[:, None]
        pooled.append((power.sum(0) / math.sqrt(len(power))) ** (1 / 3))
    pooled_KQ = np.stack(pooled)
    z = (pooled_KQ - np.median(pooled_KQ, 0)) / np.maximum(pooled_KQ.std(0), LEAST_DEVIATION)
    right = (np.maximum(z, 0) ** 2).sum(1)
    close([record.score for record in records], right, 1e-5)


def _scores(over: Tracer, query, rows, sample: ReferenceSample) -> QueryScores:
    model = over.session.model
    scoring_pass = ScoringPass(
        model.index, model.similarity, [LayerwiseSearch(query, rows)], sample
    )
    scoring_pass.score(Silent())
    (scores,) = scoring_pass.scored
    return scores


def _question(record: int | None = None):
    from haiftrace.engine import make_batch

    model = checkpoint()
    if record is None:
        ids, places = _answer_places("gpt2")
    else:
        ids = model.tokenizer(SENTENCES[record])["input_ids"]
        places = list(range(len(ids) - 3, len(ids)))
    return make_batch([ids], [[i in places for i in range(len(ids))]])


def test_an_index_of_other_layers_is_refused(tmp_path: Path) -> None:
    """What judges may change with a version: an older index must not be read as another."""
    path = Path(shutil.copytree(index_path(), tmp_path / "index"))
    assert Index.open(path).settings["layers"] == [0, 2]
    edit_manifest(path, lambda content: content["settings"].update(layers=[1, 1]))
    with pytest.raises(StaleIndexError, match="other layers of the model") as refusal:
        _ = Tracer(Index.open(path), checkpoint()).session.model.similarity
    assert "--overwrite" in str(refusal.value.hint)
