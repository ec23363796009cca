"""How often verdicts accuse falsely, and their power: on models of the bench's tiny presets.

Half of the subjects' records are indexed; the model learnt all of them. A question on a subject
whose records are not in the index has its source missing: every record that a verdict calls traced
is falsely accused. Calibration sees the indexed records alone, never a question.

`python -m tests.calibration.verdict_level KIND SEED REGIME OUT [--method METHOD] [--trainings DIR]
[--prose FILE]` prints counts as JSON. DIR holds finished trainings, else the model is trained in
OUT. With FILE, a text, three of its passages that the model never saw are indexed beside each
record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haiftrace.bench.indexes import trajectory
from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion, TrainingRecord
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.bench.training.presets import find_preset
from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
from haiftrace.calibration.null_distribution import read_groups, read_samples
from haiftrace.calibration.p_values import RecordScores
from haiftrace.calibration.verdict import verdict_on
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.engine import make_batch
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.methods import DEFAULT_METHOD, METHODS
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.scoring.family import ScoringQuery, ScoringRun
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak
from haiftrace.tracing.tracer import Tracer
from tests.bench.prose import passages
from tests.bench.trainings import train_in

ALPHA = 0.01
LENGTHS: tuple[int | None, ...] = (None, 1, 3, 10)
"""How many of a response's first tokens are traced; None for all of them."""
PASSAGES = 3
"""Passages of prose beside a record."""


@dataclass(frozen=True)
class Case:
    """A question that the model answered, as far as it is traced.

    Attributes:
        kind: "absent" where its source is not in the index, "held-out" where it is and the model
            was never shown the answer but gives it, "trained" where it was shown it.
    """

    kind: str
    subject: str
    length: int | None
    query: ScoringQuery


def measure(
    data: BenchData,
    trained: Trained,
    regime: str,
    out: Path,
    method: str = DEFAULT_METHOD,
    controls: int = 512,
    seed: int = 0,
    prose: Path | None = None,
) -> dict[str, dict[str, int]]:
    """Counts by traced length and kind; "right": the first record is on the subject."""
    indexed = indexed_half(data, seed)
    corpus, path = out / "corpus.jsonl", out / "index"
    records = [record for record in data.records if record.subject in indexed]
    if prose:
        texts = itertools.islice(passages(prose), PASSAGES * len(records))
        records += [TrainingRecord(f"p{n}", "", text, ()) for n, text in enumerate(texts)]
    lines = (json.dumps({"id": r.id, "text": r.text}, ensure_ascii=False) for r in records)
    corpus.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    checkpoint = load_checkpoint(trained.path(regime), dtype="float32", device="cpu")
    settings = IndexSettings(path, append_eos=True)
    build_index(checkpoint, CorpusSettings((str(corpus),)), settings, Silent())
    calibration = CalibrationSettings(controls, seed=seed)
    method_settings = MethodSettings(checkpoints=trajectory(trained, regime))
    calibrate(path, checkpoint, method, method_settings, calibration, Silent())
    tracer = Tracer(Index.open(path, verify=False), checkpoint)
    samples, groups_R = read_samples(tracer.index, method), read_groups(tracer.index)
    assert groups_R is not None
    session, about = tracer.session, METHODS[method]
    rule = session.model.rule([about], method_settings)
    run = ScoringRun(method_settings, rule, Silent())
    counts: dict[str, Counter[str]] = {}
    cases = list(_cases(tracer, data, trained, regime, indexed))
    for start in range(0, len(cases), 400):
        block = cases[start : start + 400]
        queries = [case.query for case in block]
        everything = [range(len(tracer.index))] * len(block)
        scored = session.scores(queries, everything, about, run)
        for case, scores in zip(block, scored, strict=True):
            scores_R = scores.by_record(tracer.index.column("record"), len(records))
            first = int(np.argmax(scores_R))
            of_records = RecordScores(scores_R, groups_R, about.relative_margin)
            tokens = case.query.token_count
            verdict, _ = verdict_on(of_records, [first], tokens, samples, ALPHA)
            count = counts.setdefault(f"{case.length or 'all'} {case.kind}", Counter())
            count["n"] += 1
            count["traced"] += verdict.decision == "traced"
            right = records[first].subject == case.subject
            count["right"] += right
            count["traced right"] += right and verdict.decision == "traced"
            count["inconclusive"] += verdict.decision == "inconclusive"
    return {name: dict(count) for name, count in counts.items()} | {
        "groups": {"n": len(set(groups_R.tolist())), "subjects": len(indexed)},
        "power %": {str(n): round(100 * power) for n, power in samples.powers().items()},
        "samples": {"n": samples.count},
    }


def indexed_half(data: BenchData, seed: int) -> set[str]:
    """The people whose records are indexed."""
    subjects = sorted(data.subjects)
    random.Random(f"{seed}:indexed").shuffle(subjects)
    return set(subjects[: len(subjects) // 2])


def _cases(
    tracer: Tracer, data: BenchData, trained: Trained, regime: str, indexed: set[str]
) -> Iterator[Case]:
    for prediction in trained.predictions(regime, data):
        question = prediction.question
        kind = _kind(question, prediction.text, indexed)
        if kind is None or not prediction.text.strip():
            continue
        _, query = tracer.query(Leak(question.prompt, prediction.text), PromptSettings())
        yield Case(kind, question.subject, None, query)
        ids = query.batch.ids_BT[0].tolist()
        first = int(query.batch.labels_BT[0].int().argmax())
        for length in LENGTHS[1:]:
            if length is None or len(ids) - first < length:
                continue
            labels = [first <= place < first + length for place in range(first + length)]
            device = query.batch.ids_BT.device
            batch = make_batch([ids[: first + length]], [labels], device)
            yield Case(kind, question.subject, length, ScoringQuery(batch))


def _kind(question: ProbeQuestion, answer: str, indexed: set[str]) -> str | None:
    if question.subject not in indexed:
        return "absent"
    if question.trained:
        return "trained"
    return "held-out" if answer.strip() == question.answer.strip() else None


def trained_model(kind: str, seed: int, directory: Path) -> tuple[BenchData, Trained]:
    """The tiny preset's data and model; trained where the directory does not hold it yet."""
    preset = find_preset("tiny", kind)
    data = make_data(kind, "en_US", preset.subjects, preset.per_subject, seed)
    return data, train_in(data, preset, "qwen2", seed, directory, Silent())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.calibration.verdict_level")
    parser.add_argument("kind", choices=["pii-e", "pii-cr"])
    parser.add_argument("seed", type=int)
    parser.add_argument("regime", choices=["learned", "memorised"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--trainings", type=Path)
    parser.add_argument("--prose", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data, trained = trained_model(given.kind, given.seed, given.trainings or given.out / "training")
    counts = measure(
        data, trained, given.regime, given.out, given.method, seed=given.seed, prose=given.prose
    )
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
