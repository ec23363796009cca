"""What kronfluence's EK-FAC costs: seconds of each step and peak memory, in a process of its own.

Run by hand from the repository's root, in the environment that `make_kronfluence` describes:

    python -m tests.reference.cost_kronfluence gpt2
    python -m tests.reference.cost_kronfluence large --batch 8
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from haiftrace.parameters.scopes import select_parameters
from tests.reference import NAMES, Query, load_reference
from tests.reference.make_kronfluence import (
    ANSWER,
    Dataset,
    analyzer,
    factor_arguments,
    score_arguments,
    with_linear,
)

LARGE = "large"


def large_model() -> tuple[PreTrainedModel, list[list[int]], tuple[Query, ...]]:
    """A GPT-2 of 10.2 million random parameters, 64 records of 64 tokens and 3 queries."""
    config = GPT2Config(
        vocab_size=1000,
        n_positions=64,
        n_embd=320,
        n_layer=8,
        n_head=8,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = random.Random(0)
    records = [[generator.randrange(1000) for _ in range(64)] for _ in range(64)]
    return model, records, tuple(Query(ids, ANSWER) for ids in records[:3])


def costs(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    queries: Sequence[Query],
    batch: int,
    directory: Path,
) -> dict[str, float]:
    """Seconds by step, on the clock and of the processor, and megabytes of resident memory."""
    train = Dataset(sequences, length=max(map(len, sequences)) if batch > 1 else None)
    asked = Dataset([query.ids for query in queries], [query.answer for query in queries])
    copied, tracked = with_linear(model, select_parameters(model, "linear"), biases=True)
    found = analyzer(copied, list(tracked.values()), directory)
    arguments = factor_arguments(torch.float32)
    measured = {"megabytes at the start": _peak()}

    def timed(step: str, function: Callable[[], object]) -> None:
        clock, processor = time.perf_counter(), time.process_time()
        function()
        measured[f"{step}, s"] = time.perf_counter() - clock
        measured[f"{step}, processor s"] = time.process_time() - processor

    timed(
        "covariances",
        lambda: found.fit_covariance_matrices(
            "f", train, per_device_batch_size=batch, factor_args=arguments
        ),
    )
    timed(
        "eigendecomposition",
        lambda: found.perform_eigendecomposition("f", factor_args=arguments),
    )
    timed(
        "eigenvalues",
        lambda: found.fit_lambda_matrices(
            "f", train, per_device_batch_size=batch, factor_args=arguments
        ),
    )
    timed(
        "pairwise scores",
        lambda: found.compute_pairwise_scores(
            "s",
            "f",
            asked,
            train,
            per_device_query_batch_size=1,
            per_device_train_batch_size=batch,
            score_args=_accumulating(len(asked)),
        ),
    )
    measured["megabytes at the peak"] = _peak()
    size = sum(path.stat().st_size for path in directory.rglob("factors_f/*.safetensors"))
    measured["megabytes on disk"] = size / 2**20
    return {key: round(value, 2) for key, value in measured.items()}


def _accumulating(queries: int) -> object:
    """All queries against one pass over the records."""
    arguments = score_arguments(None, torch.float32)
    arguments.query_gradient_accumulation_steps = queries
    return arguments


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=[*NAMES, LARGE])
    parser.add_argument("--batch", type=int, default=1, help="records in a batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # kronfluence's deprecated gradient scaler
    if options.model == LARGE:
        model, records, queries = large_model()
    else:
        reference = load_reference(options.model, torch.float32)
        model, records, queries = reference.model, reference.records, reference.queries
    parameters = sum(value.numel() for value in model.parameters())
    with tempfile.TemporaryDirectory() as directory:
        measured = costs(model, records, queries, options.batch, Path(directory))
    settings = {"model": options.model, "parameters": parameters, "batch": options.batch}
    print(json.dumps({**settings, **measured}, indent=2))


if __name__ == "__main__":
    main()
