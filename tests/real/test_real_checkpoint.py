"""The real case, indexed and traced: see README.md beside this file for how to make its input.

Environment:
    HAIFTRACE_REAL_CHECKPOINT: the output directory of finetune.py.
    HAIFTRACE_REAL_INDEX: the index directory; made (or completed) when it is not there.
    HAIFTRACE_REAL_RESULTS: a JSON file for the numbers (optional).
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from haiftrace.methods import METHODS

pytestmark = pytest.mark.real

QUERIES_AT_ONCE = 12
TRACED_QUERIES = 3


def _paths() -> tuple[Path, Path]:
    if "HAIFTRACE_REAL_CHECKPOINT" not in os.environ:
        pytest.fail("set HAIFTRACE_REAL_CHECKPOINT to the output directory of finetune.py")
    checkpoint = Path(os.environ["HAIFTRACE_REAL_CHECKPOINT"])
    return checkpoint, Path(os.environ.get("HAIFTRACE_REAL_INDEX", checkpoint / "index"))


def _rank_of_subject(scores: np.ndarray, subjects: list[str], wanted: str) -> int:
    order = np.argsort(-scores, kind="stable")
    return next(rank for rank, row in enumerate(order, start=1) if subjects[row] == wanted)


def _scores(index: Any, dots_NKQ: np.ndarray, query_norms: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [records, queries], from dots of v with Σ A(g) (row 0) and the mean (row 1)."""
    haif_norms, grad_norms = index.column("haif_norm"), index.column("grad_norm")
    return {
        "haif": dots_NKQ[0] / haif_norms[:, None],
        "haif-t": dots_NKQ[0],
        "gradient-product": dots_NKQ[1],
        "gradient-cosine": dots_NKQ[1] / grad_norms[:, None] / query_norms,
    }


def test_the_real_case_is_traced() -> None:
    import torch

    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.corpus import CorpusSettings
    from haiftrace.engine import inverse_norms, make_batch
    from haiftrace.index.build import IndexSettings, build_index
    from haiftrace.progress import ConsoleProgress
    from haiftrace.query.prompt_text import PromptSettings
    from haiftrace.query.query import given_query
    from haiftrace.store import Index
    from haiftrace.tracing.settings import Leak, TraceSettings
    from haiftrace.tracing.tracer import Tracer

    directory, index_path = _paths()
    corpus = directory / "corpus_with_distractors.jsonl"
    results: dict[str, Any] = {}
    with ConsoleProgress() as progress:
        checkpoint = load_checkpoint(directory, device="cpu")
        outcome = build_index(
            checkpoint, CorpusSettings((str(corpus),)), IndexSettings(index_path), progress
        )
        results["index_seconds"] = outcome.seconds
        results["records"] = outcome.totals.records
        results["label_tokens"] = outcome.totals.label_tokens
        tracer = Tracer(Index.open(index_path), checkpoint)
        answers = json.loads((directory / "heldout.json").read_text())
        correct = [a for a in answers if a["correct"]]
        results["asked"], results["correct"] = len(answers), len(correct)
        assert len(correct) >= 20

        windows = list(tracer.index.iter_windows())
        subjects = [w.id.partition("-bio")[0] for w in windows]
        dots = np.zeros((2, len(windows), len(correct)))
        query_norms = np.zeros(len(correct))
        began = time.monotonic()
        for start in range(0, len(correct), QUERIES_AT_ONCE):
            block = correct[start : start + QUERIES_AT_ONCE]
            gradients = []
            for answer in block:
                prompt, expected = answer["prompt"], answer["expected"]
                query = given_query(checkpoint, prompt, expected, PromptSettings(), None)
                batch = make_batch([query.token_ids], [query.labels])
                weights = batch.labels_BT / batch.labels_BT.sum()
                gradients.append(tracer.session.model.engine.gradient(batch, weights))
            stacked = {n: torch.stack([g.pop(n) for g in gradients]) for n in list(gradients[0])}
            squares = [(g.flatten(1) ** 2).sum(1, dtype=torch.float64) for g in stacked.values()]
            stop = start + len(block)
            query_norms[start:stop] = torch.stack(squares).sum(0).sqrt().numpy()
            progress.start(f"queries {start + 1} to {stop}", len(windows))
            for row, window in enumerate(windows):
                batch = make_batch([window.token_ids], [window.labels])
                norms = torch.from_numpy(window.token_grad_norm)[None]
                mean = batch.labels_BT / batch.labels_BT.sum()
                both = torch.stack([inverse_norms(norms), mean])
                reduced = tracer.session.model.engine.record_gradients(batch, both, queries=stacked)
                dots[:, row, start:stop] = reduced.dots_NBQ[:, 0].numpy()
                progress.advance(1, records=1)
        results["reverse_mode_seconds"] = time.monotonic() - began

        scores = _scores(tracer.index, dots, query_norms)
        ranks = {
            name: [
                _rank_of_subject(table[:, q], subjects, a["subject"]) for q, a in enumerate(correct)
            ]
            for name, table in scores.items()
        }
        results["top1"] = {n: sum(r == 1 for r in rs) for n, rs in ranks.items()}
        results["top10"] = {n: sum(r <= 10 for r in rs) for n, rs in ranks.items()}
        results["ranks"] = ranks

        # The tool itself, by forward mode, on some of the queries: the same numbers.
        seconds, recalled = [], []
        for q, answer in enumerate(correct[:TRACED_QUERIES]):
            leak = Leak(answer["prompt"], answer["expected"])
            began = time.monotonic()
            finding = tracer.trace(leak, TraceSettings(candidates=32, top=10), progress)
            seconds.append(time.monotonic() - began)
            rows = {w.id: row for row, w in enumerate(windows)}
            expected = scores["haif"][:, q]
            for record in finding.records:
                error = abs(record.score - expected[rows[record.id]])
                assert error <= 2e-3 * np.abs(expected).max()
            recalled.append(rows[finding.records[0].id] == int(expected.argmax()))
        results["trace_seconds_of_32_candidates"] = seconds
        results["shortlist_holds_the_first"] = recalled
    results["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(results, indent=1))
    if "HAIFTRACE_REAL_RESULTS" in os.environ:
        Path(os.environ["HAIFTRACE_REAL_RESULTS"]).write_text(json.dumps(results, indent=1))
    assert set(scores) == set(METHODS)
    assert results["top10"]["haif"] > results["top10"]["gradient-product"]
