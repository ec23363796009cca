"""How often the whole verdict, by influence and by text, accuses where the source is missing.

As in `verdict_level`, half of the people's records are indexed and right answers on the others are
traced, by the tool's own default: a shortlist, influence and look-ups. Beside the records stand
decoys, never trained on: of each other person one record, for half of them with another name, so
that a search for the answer finds it, and for half with another value of what is asked.

`python -m tests.calibration.combined_level KIND SEED REGIME OUT [TRAINED]` prints counts as JSON;
TRAINED is a directory of finished trainings, else the model is trained in OUT.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from haiftrace.bench.pii.decoys import DECOYS, OTHER_NAME, OTHER_VALUE, Decoy, make_decoys
from haiftrace.bench.synthetic.dataset import BenchData, TrainingRecord
from haiftrace.bench.training.answering import Prediction
from haiftrace.bench.training.checkpoints import Trained
from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.findings import Finding
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.index.value_index import keep_value_keys
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests.calibration.verdict_level import ALPHA, indexed_half, trained_model


def answers_without_source(
    data: BenchData, trained: Trained, regime: str, seed: int
) -> dict[str, list[Prediction]]:
    """Right answers on people who are not indexed, by the kind of decoy that the people get.

    A decoy with another value has the person's other values: a single answer of each such person.
    """
    absent = sorted(set(data.subjects) - indexed_half(data, seed))
    random.Random(f"{seed}:decoys").shuffle(absent)
    renamed = set(absent[: len(absent) // 2])
    answers: dict[str, list[Prediction]] = {kind: [] for kind in DECOYS}
    predictions = trained.predictions(regime, data)
    random.Random(f"{seed}:answers").shuffle(predictions)
    asked: set[str] = set()
    for prediction in predictions:
        subject = prediction.question.subject
        if subject not in absent or not prediction.correct:
            continue
        if subject in renamed:
            answers[OTHER_NAME].append(prediction)
        elif subject not in asked:
            answers[OTHER_VALUE].append(prediction)
        asked.add(subject)
    return answers


def decoys_of(data: BenchData, answers: Sequence[Prediction], kind: str) -> list[Decoy]:
    """A decoy for each answer; those on the same person share one."""
    first = {answer.question.subject: answer.question for answer in reversed(answers)}
    made = [decoy for decoy in make_decoys(data, list(first.values())) if decoy.kind == kind]
    by_subject = dict(zip(first, made, strict=True))
    return [by_subject[answer.question.subject] for answer in answers]


def traced(
    checkpoint: Checkpoint,
    records: Sequence[TrainingRecord],
    answers: Sequence[Prediction],
    seed: int,
    out: Path,
) -> list[Finding]:
    """The findings on the answers, over an index of the records."""
    corpus, path = out / "corpus.jsonl", out / "index"
    lines = (json.dumps({"id": r.id, "text": r.text}, ensure_ascii=False) for r in records)
    corpus.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = IndexSettings(path, append_eos=True, overwrite=True)
    build_index(checkpoint, CorpusSettings((str(corpus),)), settings, Silent())
    keep_value_keys(path, Silent())
    controls = CalibrationSettings(seed=seed)
    calibrate(path, checkpoint, DEFAULT_METHOD, MethodSettings(), controls, Silent())
    leaks = [Leak(answer.question.prompt, answer.text) for answer in answers]
    trace = TraceSettings(alpha=ALPHA, top=1, prompting=PromptSettings())
    with Index.open(path) as index:
        tracer = Tracer(index, checkpoint)
        return [finding for (finding,) in tracer.trace_all(leaks, trace, Silent())]


def counts(findings: Sequence[Finding], decoys: Sequence[Decoy]) -> dict[str, int]:
    """How many findings say what.

    Args:
        decoys: of each answer the fake of its source.
    """
    count: Counter[str] = Counter(n=len(findings))
    for finding, decoy in zip(findings, decoys, strict=True):
        assert finding.verdict is not None
        holders = {holder.id for holder in finding.holders or ()}
        said = finding.verdict.decision
        count["in a record"] += bool(holders)
        count[said if said != "traced" else f"traced by {finding.verdict.basis}"] += 1
        if said == "traced":
            accused = holders if finding.verdict.basis == "text" else {finding.records[0].id}
            count["traced to the decoy"] += decoy.record.id in accused
        if holders:
            assert said != "no source found"
    return dict(count)


def measure(
    data: BenchData, trained: Trained, regime: str, seed: int, out: Path
) -> dict[str, dict[str, int]]:
    """Counts for each kind of decoy."""
    checkpoint = load_checkpoint(trained.path(regime), dtype="float32", device="cpu")
    indexed = indexed_half(data, seed)
    answers = answers_without_source(data, trained, regime, seed)
    decoys = {kind: decoys_of(data, of_kind, kind) for kind, of_kind in answers.items()}
    fakes = {decoy.record.id: decoy.record for some in decoys.values() for decoy in some}
    records = [record for record in data.records if record.subject in indexed]
    everything = [answer for of_kind in answers.values() for answer in of_kind]
    findings = iter(traced(checkpoint, [*records, *fakes.values()], everything, seed, out))
    return {
        kind: counts([next(findings) for _ in of_kind], decoys[kind])
        for kind, of_kind in answers.items()
    }


def main() -> None:
    kind, seed, regime, out = sys.argv[1:5]
    Path(out).mkdir(parents=True, exist_ok=True)
    directory = Path(sys.argv[5]) if len(sys.argv) > 5 else Path(out) / "training"
    data, trained = trained_model(kind, int(seed), directory)
    print(json.dumps(measure(data, trained, regime, int(seed), Path(out)), indent=1))


if __name__ == "__main__":
    main()
