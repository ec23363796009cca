"""What each method costs on the same records: run by hand, `python -m tests.bench.method_costs`.

A GPT-2 of 10 million random parameters, 64 records of 64 tokens (those that the peer library's cost
is measured on). Each method runs in a process of its own, on one thread. Processor seconds of what
is kept in the index, of one trace of one leak, and of a forward pass of the corpus, which the
others are given as multiples of; peak memory; bytes that the index keeps for it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from haiftrace.checkpoint.load import load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.engine import GradientEngine
from haiftrace.index.build import IndexSettings, build_index
from haiftrace.index.precompute import prepare
from haiftrace.methods import METHODS
from haiftrace.methods.settings import FactorSettings, MethodSettings
from haiftrace.parameters.scopes import select_parameters
from haiftrace.progress import Silent
from haiftrace.scoring.batches import batch_of, window_batches
from haiftrace.store import Index
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer

KEPT = ("haif", "haif-t", "ek-fac", "relatif", "ahif", "attif")
"""Methods whose norms or factors an index keeps."""


def make(directory: Path) -> None:
    """The checkpoint, two of its training run, the corpus and the index."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.reference.cost_kronfluence import large_model

    model, records, _ = large_model()
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(1000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", unk_token="w0")
    for name in ("model", "run-0", "run-1"):
        model.save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)
    texts = (" ".join(f"w{token}" for token in record) for record in records)
    lines = [json.dumps({"text": text}) for text in texts]
    (directory / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    checkpoint = load_checkpoint(directory / "model", device="cpu")
    corpus = CorpusSettings((str(directory / "corpus.jsonl"),))
    settings = IndexSettings(directory / "index", token_vectors=0)
    build_index(checkpoint, corpus, settings, Silent())


def measure(directory: Path, method: str) -> dict[str, float]:
    """Costs of one method, in this process."""
    checkpoint = load_checkpoint(directory / "model", device="cpu")
    run = ",".join(f"{directory / name}:0.1" for name in ("run-0", "run-1"))
    method_settings = MethodSettings(factors=FactorSettings("empirical"), checkpoints=run)
    index = Index.open(directory / "index")
    engine = GradientEngine(checkpoint.model, select_parameters(checkpoint.model))

    def forward() -> None:
        for windows in window_batches(index, range(len(index)), engine.device):
            with torch.no_grad():
                checkpoint.model(input_ids=batch_of(windows, engine.device).ids_BT)

    forward()
    costs = {"forward": min(timed(forward) for _ in range(3))}
    before = used(directory)
    costs["keep"] = 0.0
    if method in KEPT:
        costs["keep"] = timed(
            lambda: prepare(
                directory / "index", checkpoint, method, method_settings, 512 << 20, Silent()
            )
        )
    costs["bytes"] = used(directory) - before
    prompt, _, response = (directory / "corpus.jsonl").read_text()[10:300].partition(" w5")
    leak = Leak(prompt.strip(), "w" + response.split()[0].strip("w"))
    tracer = Tracer(Index.open(directory / "index"), checkpoint)
    settings = TraceSettings(method, exact=True, methods=method_settings)
    costs["trace"] = timed(lambda: tracer.trace(leak, settings, Silent()))
    costs["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return costs


def timed(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def used(directory: Path) -> int:
    kept = directory / "index" / "supplements"
    return sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs=2, metavar=("DIRECTORY", "METHOD"))
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print(f"index: {timed(lambda: make(directory)):.1f} s", flush=True)
        print("| method | kept, s (forward passes) | trace, s (forward passes) | peak, MB | kept |")
        print("|---|---|---|---|---|")
        for method in options.methods.split(","):
            command = [sys.executable, "-m", "tests.bench.method_costs", "--measure", name, method]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            costs = json.loads(output.splitlines()[-1])
            forward = costs["forward"]
            print(
                f"| {method} | {costs['keep']:.1f} ({costs['keep'] / forward:.0f}) |"
                f" {costs['trace']:.1f} ({costs['trace'] / forward:.1f}) | {costs['peak']:.0f} |"
                f" {costs['bytes'] / 2**20:.1f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
