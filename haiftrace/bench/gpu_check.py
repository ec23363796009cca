"""Whether direct gradients are right and fast on a GPU: `python -m haiftrace.bench.gpu_check`.

Needs no network and a few minutes of one card. It prints a report as JSON, and exits with 1 where a
bound is broken:

- `precision`: the demo's trained checkpoint on the device, in float32 and bfloat16, beside float64
  on the CPU, which the tests compare with a loop of single backward passes. Relative errors of
  losses and norms, and the cosine of every token's gradient with the right one.
- `traces`: an index and a trace of every leak of the demo on the device and on the CPU, float32,
  from the same seed: the same first records, and how far their scores differ.
- `speed`: the engine's operations on random weights of a 0.5B and a 1.5B shape, bfloat16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from haiftrace.bench.speed.models import find_model
from haiftrace.bench.speed.operations import OperationSettings, measure_operations
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.device import choose_device, dtype_name
from haiftrace.engine import Batch, make_batch
from haiftrace.engine.direct import DirectGradients, SecondMoments, Whitening
from haiftrace.engine.direct.factors import LayerFactors
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.progress import Silent
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer

BOUNDS = {"float32": {"norms": 1e-2, "cosines": 1e-3}}
"""Largest errors of norms (relative) and cosines. bfloat16 is reported, and has no bound."""
SCORES = 1e-3
"""Largest relative difference of a first record's score between device and CPU."""
SHAPES, LENGTHS = ("qwen2-0.5b", "qwen2-1.5b"), (128, 512, 1024)
RECORDS = 16


@dataclass(frozen=True)
class TrainedModel:
    """The demo's checkpoint and corpus, and what it is asked.

    Attributes:
        prompts: of leaks.
        template: that a prompt is put into.
    """

    model: Path
    corpus: Path
    prompts: tuple[str, ...]
    template: str


@contextmanager
def trained_model() -> Iterator[TrainedModel]:
    """The demo's, as files for as long as the block lasts."""
    with resources.as_file(resources.files("haiftrace") / "demo" / "assets") as assets:
        about = json.loads((assets / "demo.json").read_text("utf-8"))
        prompts = tuple(leak["prompt"] for leak in about["leaks"])
        corpus = assets / "corpus.jsonl"
        yield TrainedModel(assets / "checkpoint", corpus, prompts, about["template"])


def precision(trained: TrainedModel, device: str, dtype: str) -> dict[str, float]:
    """Errors of the device's numbers in one dtype, over the demo's first records."""
    texts = [json.loads(line)["text"] for line in trained.corpus.read_text("utf-8").splitlines()]
    right = load_checkpoint(trained.model, device="cpu", dtype="float64")
    ids = [right.tokenizer(text).input_ids for text in texts[:RECORDS]]
    gradients = DirectGradients(right.model)
    moments = SecondMoments()
    moments.add(*gradients.value_inputs(make_batch(ids)))
    whitening = moments.whitening()
    expected_J, expected = _measured(right, whitening, make_batch(ids))
    checkpoint = load_checkpoint(trained.model, device=device, dtype=dtype)
    batch = make_batch(ids, device=choose_device(device))
    losses_J, layers = _measured(checkpoint, whitening, batch)
    norms_LJ, expected_LJ = (
        torch.stack([layer.norm_J.double().cpu() for layer in each]) for each in (layers, expected)
    )
    own = [ours.cosines(theirs).diagonal() for ours, theirs in zip(layers, expected, strict=True)]
    of_norms = (norms_LJ.norm(dim=0) / expected_LJ.norm(dim=0) - 1).abs()
    return {
        "losses": float(((losses_J - expected_J).abs() / expected_J).max()),
        "norms": float(of_norms.max()),
        "norms, median": float(of_norms.median()),
        "cosines": float(1 - torch.stack(own).min()),
    }


def traces(trained: TrainedModel, device: str, directory: Path) -> dict[str, Any]:
    """First records on the device and on the CPU, and the largest difference of their scores."""
    on_device, on_cpu = (
        _first_records(trained, each, directory / name)
        for each, name in ((device, "device"), ("cpu", "cpu"))
    )
    differences = [
        abs(ours[1] - theirs[1]) / theirs[1] for ours, theirs in zip(on_device, on_cpu, strict=True)
    ]
    return {
        "leaks": len(on_cpu),
        "same_first_record": sum(a[0] == b[0] for a, b in zip(on_device, on_cpu, strict=True)),
        "scores": max(differences),
    }


def speed(device: str, dtype: str, directory: Path, shapes: Sequence[str]) -> list[dict[str, Any]]:
    """The operations of every shape and length."""
    rows = []
    for shape in shapes:
        model = find_model(shape, directory / shape)
        for tokens in LENGTHS:
            settings = OperationSettings(
                str(model.path), tokens, device, dtype, rounds=5, seconds=10, full=False
            )
            if choose_device(device).type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            measured = measure_operations(settings)
            if choose_device(device).type == "cuda":
                peak = torch.cuda.max_memory_allocated(device) / 2**20
                measured["peak_megabytes"] = round(peak)
            medians = {name: sorted(s)[len(s) // 2] for name, s in measured["seconds"].items()}
            rows.append({**measured, "model": shape, "seconds": medians})
    return rows


def _measured(
    checkpoint: Checkpoint, whitening: Whitening, batch: Batch
) -> tuple[torch.Tensor, list[LayerFactors]]:
    """Losses, and the factors in float64 on the CPU."""
    gradients = DirectGradients(checkpoint.model, whitening)

    def keep(layer: int, labels_N: torch.Tensor, factors: LayerFactors) -> None:
        kept[layer].append(factors)
        order[layer].append(labels_N)

    kept: list[list[LayerFactors]] = [[] for _ in range(gradients.layers)]
    order: list[list[torch.Tensor]] = [[] for _ in range(gradients.layers)]
    losses_J = gradients.run(batch, keep).double().cpu()
    layers = [
        LayerFactors.joined(factors).select(torch.argsort(torch.cat(labels)))
        for factors, labels in zip(kept, order, strict=True)
    ]
    return losses_J, [
        LayerFactors(
            layer.output_grad_GJRE.double().cpu(),
            layer.input_GJRD.double().cpu(),
            layer.norm_J.double().cpu(),
        )
        for layer in layers
    ]


def _first_records(trained: TrainedModel, device: str, index: Path) -> list[tuple[str, float]]:
    checkpoint = load_checkpoint(trained.model, device=device, dtype="float32")
    corpus = CorpusSettings((str(trained.corpus),))
    build_index(checkpoint, corpus, IndexSettings(output=index), Silent())
    with Index.open(index) as opened:
        tracer = Tracer(opened, checkpoint)
        settings = TraceSettings(exact=True, prompting=PromptSettings(template=trained.template))
        leaks = [Leak(prompt) for prompt in trained.prompts]
        findings = [finding for (finding,) in tracer.trace_all(leaks, settings, Silent())]
        return [(finding.records[0].id, finding.records[0].score) for finding in findings]


def main() -> None:
    """Prints the report; exits with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m haiftrace.bench.gpu_check")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="'' for no speed")
    options = parser.parse_args()
    device = str(choose_device(options.device))
    broken = []
    with tempfile.TemporaryDirectory() as name, trained_model() as trained:
        report: dict[str, Any] = {"device": device, "torch": torch.__version__}
        report["precision"] = {
            each: precision(trained, device, each) for each in ("float32", "bfloat16")
        }
        for dtype, bounds in BOUNDS.items():
            for kind, most in bounds.items():
                if not report["precision"][dtype][kind] <= most:
                    broken.append(f"{kind} in {dtype}")
        report["traces"] = traces(trained, device, Path(name))
        if report["traces"]["same_first_record"] < report["traces"]["leaks"]:
            broken.append("first records")
        if not report["traces"]["scores"] <= SCORES:
            broken.append("scores")
        half = dtype_name(torch.bfloat16) if device != "cpu" else "float32"
        shapes = [shape for shape in options.shapes.split(",") if shape]
        report["speed"] = speed(device, half, Path(name), shapes)
    report["broken"] = broken
    print(json.dumps(report, indent=1))
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
