"""How often verdicts accuse falsely, and their power: on models of the bench's tiny presets.

Half of the subjects' records are indexed; the model learnt all of them. A question on a subject
whose records are not in the index has its source missing: every record that a verdict calls traced
is falsely accused. Calibration sees the indexed records alone, never a question.

`python -m tests.calibration.verdict_level KIND SEED REGIME OUT [METHOD [TRAINED]]` prints counts as
JSON; TRAINED is a directory of finished trainings, else the model is trained in OUT.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haiftrace.bench.indexes import trajectory
from haiftrace.bench.synthetic.dataset import BenchData
from haiftrace.bench.synthetic.dataset import Question as Asked
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.presets import find_preset
from haiftrace.bench.training.train import Trained, train
from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
from haiftrace.calibration.null_distribution import by_record, read_draws, read_groups
from haiftrace.calibration.p_values import Field
from haiftrace.calibration.verdict import Trial, judge
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.engine import make_batch
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.methods import DEFAULT_METHOD, METHODS, LayerwiseMethod
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.query import Asking
from haiftrace.scoring.query_gradient import Question
from haiftrace.store import Index
from haiftrace.trace.tracer import Leak, Tracer, over_query_norm

ALPHA = 0.01
PARTS: tuple[int | None, ...] = (None, 1, 3, 10)
"""What is traced of a response: all of it, or its first tokens."""


@dataclass(frozen=True)
class Case:
    """A question that the model answered, as far as it is traced.

    Attributes:
        kind: "absent" where its source is not in the index, "held-out" where it is and the model
            was never shown the answer but gives it, "trained" where it was shown it.
    """

    kind: str
    subject: str
    part: int | None
    question: Question


def measure(
    data: BenchData,
    trained: Trained,
    regime: str,
    out: Path,
    method: str = DEFAULT_METHOD,
    controls: int = 512,
    seed: int = 0,
) -> dict[str, dict[str, int]]:
    """Counts by part and kind: "n", "traced", "right" (the first record is the subject's)."""
    indexed = _half(data, seed)
    corpus, path = out / "corpus.jsonl", out / "index"
    records = [record for record in data.records if record.subject in indexed]
    lines = (json.dumps({"id": r.id, "text": r.text}, ensure_ascii=False) for r in records)
    corpus.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    checkpoint = load_checkpoint(trained.path(regime), dtype="float32", device="cpu")
    settings = IndexSettings(path, append_eos=True)
    build_index(checkpoint, CorpusSettings((str(corpus),)), settings, Silent())
    drawn = CalibrationSettings(controls, seed=seed)
    told = MethodSettings(checkpoints=trajectory(trained, regime))
    calibrate(path, checkpoint, method, told, drawn, Silent())
    tracer = Tracer(Index.open(path, verify=False), checkpoint)
    draws, groups = read_draws(tracer.index, method), read_groups(tracer.index)
    assert groups is not None
    counts: dict[str, Counter[str]] = {}
    cases = list(_cases(tracer, data, trained, regime, indexed))
    for start in range(0, len(cases), 400):
        part = cases[start : start + 400]
        questions = [case.question for case in part]
        scored = tracer.score_many(questions, [method], told, Silent())[method]
        for case, row in zip(part, scored, strict=True):
            exact = row * over_query_norm(METHODS[method], case.question)
            scores = by_record(exact, tracer.index.column("record"), len(records))
            first = int(np.argmax(scores))
            tokens = int(case.question.batch.labels_BT.sum())
            field = Field(scores, groups, isinstance(METHODS[method], LayerwiseMethod))
            verdict, _ = judge(Trial(field, [first], tokens), draws, ALPHA)
            found = counts.setdefault(f"{case.part or 'all'} {case.kind}", Counter())
            found["n"] += 1
            found["traced"] += verdict.decision == "traced"
            right = records[first].subject == case.subject
            found["right"] += right
            found["traced right"] += right and verdict.decision == "traced"
            found["inconclusive"] += verdict.decision == "inconclusive"
    return {name: dict(found) for name, found in counts.items()} | {
        "groups": {"n": len(set(groups.tolist())), "subjects": len(indexed)},
        "power %": {str(n): round(100 * power) for n, power in draws.powers().items()},
        "draws": {"n": draws.count},
    }


def _half(data: BenchData, seed: int) -> set[str]:
    subjects = sorted(data.subjects)
    random.Random(f"{seed}:indexed").shuffle(subjects)
    return set(subjects[: len(subjects) // 2])


def _cases(
    tracer: Tracer, data: BenchData, trained: Trained, regime: str, indexed: set[str]
) -> Iterator[Case]:
    for prediction in trained.predictions(regime, data):
        asked = prediction.question
        kind = _kind(asked, prediction.text, indexed)
        if kind is None or not prediction.text.strip():
            continue
        _, whole = tracer.question(Leak(asked.prompt, prediction.text), Asking())
        yield Case(kind, asked.subject, None, whole)
        ids = whole.batch.ids_BT[0].tolist()
        first = int(whole.batch.labels_BT[0].int().argmax())
        for length in PARTS[1:]:
            if length is None or len(ids) - first < length:
                continue
            labels = [first <= place < first + length for place in range(first + length)]
            batch = make_batch([ids[: first + length]], [labels], tracer.device)
            yield Case(kind, asked.subject, length, Question(batch, lambda: tracer.engine))


def _kind(asked: Asked, answer: str, indexed: set[str]) -> str | None:
    if asked.subject not in indexed:
        return "absent"
    if asked.trained:
        return "trained"
    return "held-out" if answer.strip() == asked.answer.strip() else None


def trained_model(kind: str, seed: int, directory: Path) -> tuple[BenchData, Trained]:
    """The tiny preset's data and model; trained where the directory does not hold it yet."""
    preset = find_preset("tiny", kind)
    data = make_data(kind, "en_US", preset.subjects, preset.per_subject, seed)
    return data, train(data, preset, "qwen2", seed, directory, Silent())


def main() -> None:
    kind, seed, regime, out = sys.argv[1:5]
    Path(out).mkdir(parents=True, exist_ok=True)
    method = sys.argv[5] if len(sys.argv) > 5 else DEFAULT_METHOD
    directory = Path(sys.argv[6]) if len(sys.argv) > 6 else Path(out) / "training"
    data, trained = trained_model(kind, int(seed), directory)
    found = measure(data, trained, regime, Path(out), method, seed=int(seed))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
