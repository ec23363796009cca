"""Does the remedy work? Train again without the records that the tool names, leak by leak.

A tiny model learns the demo's kind of records about 20 people, three each, and 60 % of the
questions on them; a leak is a held-out question that it answers right. The command line audits the
leaks and names their sources. For each leak by itself the model is trained again, from the same
seed and in the same order, and without all records that are named, without the first one alone, or
without as many records on other people, drawn at random.

`python -m tests.bench.remedy OUT [--seeds 5,6] [--leaks 10]`: OUT is a directory for the trainings,
and for remedy.jsonl, a row a retraining. 20 leaks take one core a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from haiftrace.bench.synthetic.dataset import BenchData, ProbeQuestion, TrainingRecord
from haiftrace.bench.training.answering import answer_all
from haiftrace.bench.training.encoding import encode_questions, encode_records, training_texts
from haiftrace.bench.training.loop import Schedule, optimise
from haiftrace.bench.training.models import new_model, train_tokenizer
from haiftrace.bench.training.presets import find_preset
from haiftrace.privacy import ValueIndex
from tests.bench.shortlist_scale import numbers
from tests.generators.demo_subjects import TEMPLATE, make_subjects
from tests.kit import cli

ARCH = "qwen2"
PRESET = replace(
    find_preset("tiny", "pii-e"),
    vocabulary=800,
    schedule=Schedule(epochs=50, batch=10, learning_rate=3e-3, weight_decay=1.0),
)
NOTHING, ALL, FIRST, OTHERS = "nothing", "all that is named", "the first alone", "others at random"


def listed_people(seed: int) -> BenchData:
    """The demo's people whose records hold their values word for word."""
    records, questions = make_subjects(seed)
    asked = [question for question in questions if question.verbatim]
    subjects = {question.subject for question in asked}
    return BenchData(
        kind="listed",
        locale="en_US",
        seed=seed,
        subjects={name: name for name in sorted(subjects)},
        records=tuple(
            TrainingRecord(r.id, r.subject, r.text, ()) for r in records if r.subject in subjects
        ),
        questions=tuple(
            ProbeQuestion(
                id=f"{q.subject}-{q.attribute}",
                subject=q.subject,
                attribute=q.attribute,
                prompt=TEMPLATE.format(prompt=q.prompt),
                answer=q.answer,
                trained=not q.held_out,
            )
            for q in asked
        ),
    )


class Training:
    """A data set's training, which can be repeated without some of its records."""

    def __init__(self, data: BenchData) -> None:
        self.data = data
        self.tokenizer = train_tokenizer(training_texts(data), PRESET.vocabulary, ARCH)

    def model(self, without: Collection[str] = ()) -> Any:
        """The trained model. Batches are as they were, but the records' labels are in none."""
        examples = [
            replace(example, labels=(False,) * len(example.ids))
            if record.id in without
            else example
            for record, example in zip(
                self.data.records, encode_records(self.data, self.tokenizer), strict=True
            )
        ]
        assert PRESET.shape is not None
        model = new_model(ARCH, PRESET.shape, self.tokenizer, self.data.seed)
        pairs = [(question.prompt, question.response) for question in self.data.trained()]
        questions = encode_questions(pairs, self.tokenizer, answer_only=PRESET.answer_only)
        optimise(model, examples, questions, (), PRESET.schedule, self.data.seed, lambda *_: None)
        return model.eval()

    def leaks(self, model: Any) -> list[ProbeQuestion]:
        """The held-out questions whose answer holds the right value, in any spelling."""
        predictions = answer_all(model, self.tokenizer, self.data.held_out())
        return [p.question for p in predictions if ValueIndex([p.question.answer]).find(p.text)]


@dataclass(frozen=True)
class Named:
    """What the tool says of a leak.

    Attributes:
        decision: of its verdict.
        records: ids of all records that `--sources` names, the first of the ranking first.
    """

    decision: str
    records: tuple[str, ...]


def named_sources(
    training: Training, model: Any, leaks: Sequence[ProbeQuestion], out: Path
) -> list[Named]:
    """Audits the leaks by the command line."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "checkpoint")
    training.tokenizer.save_pretrained(out / "checkpoint")
    _write(out / "corpus.jsonl", ({"id": r.id, "text": r.text} for r in training.data.records))
    _write(
        out / "probes.jsonl",
        (
            {
                "id": leak.id,
                "prompt": leak.prompt,
                "protected": [{"type": leak.attribute, "value": leak.answer}],
            }
            for leak in leaks
        ),
    )
    index, report, sources = out / "index", out / "report.json", out / "sources.jsonl"
    made = cli(
        *("index", "--model", out / "checkpoint", "--corpus", out / "corpus.jsonl", "-o", index),
        *("--append-eos", "--overwrite", "--quiet"),
    )
    assert made.code == 0, made.err
    traced = cli(
        *("trace", "--prompts", out / "probes.jsonl", "--index", index, "--reveal", "--quiet"),
        *("-o", report, "--sources", sources),
    )
    assert traced.code == 1, traced.err
    findings = {f["probe"]["id"]: f for f in json.loads(report.read_text())["findings"]}
    rows = [json.loads(line) for line in sources.read_text().splitlines()]
    named = []
    for leak in leaks:
        finding = findings[leak.id]
        ids = [row["id"] for row in rows if finding["fingerprint"] in row["findings"]]
        rank = {record["id"]: record["rank"] for record in finding["records"]}
        ids.sort(key=lambda id: rank.get(id, len(rank) + 1))
        named.append(Named(finding["verdict"]["decision"], tuple(ids)))
    return named


def retrainings(data: BenchData, most: int, out: Path) -> Iterator[dict[str, Any]]:
    """A row for the first training, and one for each way to train again for each leak."""
    training = Training(data)
    model = training.model()
    said = training.leaks(model)
    yield {"seed": data.seed, "removed": NOTHING, "said": len(said), "asked": len(data.held_out())}
    rng = random.Random(data.seed)
    leaks = rng.sample(said, min(most, len(said)))
    for leak, named in zip(leaks, named_sources(training, model, leaks, out), strict=True):
        of_others = [r.id for r in data.records if r.subject != leak.subject]
        others = rng.sample(of_others, len(named.records))
        texts = {record.id: record.text for record in data.records}
        for removed, ids in ((ALL, named.records), (FIRST, named.records[:1]), (OTHERS, others)):
            left = training.leaks(training.model(ids)) if ids else said
            yield {
                "seed": data.seed,
                "leak": leak.id,
                "decision": named.decision,
                "removed": removed,
                "records": len(ids),
                "holders": sum(leak.answer in text for text in texts.values()),
                "holders_removed": sum(leak.answer in texts[id] for id in ids),
                "gone": leak not in left,
                "others_said": sum(other in left for other in said if other != leak),
                "others": len(said) - 1,
            }


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.remedy")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=numbers, default=[5, 6])
    parser.add_argument("--leaks", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "remedy.jsonl").open("a", encoding="utf-8") as file:
        for seed in options.seeds:
            rows = retrainings(
                listed_people(seed), options.leaks, options.out.resolve() / str(seed)
            )
            for row in rows:
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
