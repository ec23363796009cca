"""How often the candidates hold the exact first record, in corpora of up to 100,000 records.

A corpus is the records that a tiny model of the PII benches was trained on, and records about other
people, or passages of a text, which it never saw. For every number of dimensions it is indexed, the
index proposes candidates, and the first record by the layerwise rule is looked for among them.

`python -m tests.bench.shortlist_scale OUT [--records 1000,10000] [--dimensions 512,1024,2048] …`:
OUT is a directory for the training, which is kept, and for recall.jsonl. 10,000 records take one
core some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from haiftrace.bench.pii.comparisons import spread
from haiftrace.bench.pii.run import leaks_of
from haiftrace.bench.pii.shortlist_recall import shortlist_recall
from haiftrace.bench.synthetic.make import make_data
from haiftrace.bench.training.presets import find_preset
from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak
from haiftrace.tracing.tracer import Tracer
from tests.bench.prose import passages
from tests.bench.trainings import train_in

DIMENSIONS = (512, 1024, 2048, 4096)


def other_people(kind: str, subjects: int) -> Iterator[str]:
    """Records like those that the model was trained on."""
    for seed in itertools.count(1):
        yield from (record.text for record in make_data(kind, "en_US", subjects, 8, seed).records)


def measure(
    out: Path,
    kind: str,
    preset: str,
    records: Sequence[int],
    dimensions: Sequence[int],
    leaks: int,
    prose: Path | None,
) -> None:
    """Writes a row for each size, number of dimensions and number of candidates."""
    torch.set_num_threads(1)
    recipe = find_preset(preset, kind)
    data = make_data(kind, "en_US", recipe.subjects, recipe.per_subject, seed=0)
    run = train_in(data, recipe, "qwen2", 0, out / "training", Silent())
    checkpoint = load_checkpoint(run.path("memorised"), dtype="float32", device="cpu")
    chosen = spread(leaks_of(data, run, "memorised"), leaks)
    with (out / "recall.jsonl").open("w", encoding="utf-8") as file:
        for most in records:
            others = passages(prose) if prose else other_people(kind, recipe.subjects)
            texts = itertools.chain((record.text for record in data.records), others)
            corpus = out / "corpus.jsonl"
            with corpus.open("w", encoding="utf-8") as lines:
                for text in itertools.islice(texts, most):
                    lines.write(json.dumps({"text": text}) + "\n")
            exact = None
            for dimension in dimensions:
                path, began = out / "index", time.monotonic()
                settings = IndexSettings(
                    path, append_eos=True, token_vectors=dimension, overwrite=True
                )
                build_index(checkpoint, CorpusSettings((str(corpus),)), settings, Silent())
                took = time.monotonic() - began
                with Index.open(path, verify=False) as index:
                    tracer = Tracer(index, checkpoint)
                    queries = [
                        tracer.query(Leak(q.prompt, q.response), PromptSettings())[1]
                        for q in chosen
                    ]
                    if exact is None:
                        exact = tracer.session.score_matrix(
                            queries, ["layerwise"], MethodSettings(), Silent()
                        )
                    size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
                    size_row = {
                        "bytes_a_token": round(size / index.manifest.totals.label_tokens, 1),
                        "index_seconds": round(took, 1),
                    }
                    rows = shortlist_recall(tracer, [query.batch for query in queries], exact)
                for row in rows:
                    file.write(json.dumps({**row, **size_row}) + "\n")
                file.flush()
                held = ", ".join(f"{r['successes']}/{r['n']} in {r['candidates']}" for r in rows)
                print(
                    f"{rows[0]['records']:,} records, {dimension} dimensions,"
                    f" {size_row['bytes_a_token']} bytes a token: {held} ({took:.0f} s to index)"
                )
                shutil.rmtree(path)


def numbers(text: str) -> list[int]:
    """Numbers with commas between."""
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shortlist_scale")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=["pii-e", "pii-cr"], default="pii-cr")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--records", type=numbers, default=[1000, 10_000])
    parser.add_argument("--dimensions", type=numbers, default=DIMENSIONS)
    parser.add_argument("--leaks", type=int, default=24)
    parser.add_argument("--prose", type=Path, help="a text whose passages fill the corpus")
    measure(**vars(parser.parse_args()))
