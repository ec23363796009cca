"""The steps of one trace in one process: loading, generation, search, exact scores.

`python -m haiftrace.bench.speed.trace_steps INDEX MODEL PROBES THREADS DEVICE CANDIDATES` prints
the seconds of each as JSON: of the processor on a CPU, on the clock on a GPU. Every step runs once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haiftrace.tracing.tracer import Tracer

START, GENERATION, SEARCH, EXACT, WHOLE = (
    "loading model and index",
    "generation of 16 tokens",
    "search",
    "exact scores",
    "trace of the next leak",
)


def trace_steps(
    index: Path, model: Path, probes: Path, device: str, candidates: int
) -> Mapping[str, float]:
    """Seconds by step, and `tokens`, the label tokens of the response that is scored."""
    from haiftrace.bench.speed.clock import seconds_of
    from haiftrace.device import choose_device
    from haiftrace.methods import find_methods
    from haiftrace.methods.settings import MethodSettings
    from haiftrace.progress import Silent
    from haiftrace.query.prompt_text import PromptSettings
    from haiftrace.scoring.candidates import SearchBudget
    from haiftrace.scoring.family import ScoringRun
    from haiftrace.tracing.settings import Leak, TraceSettings
    from haiftrace.tracing.tracer import Tracer

    place = choose_device(device)
    taken: dict[str, float] = {}
    kept: dict[str, Any] = {}

    def step(name: str, operation: Callable[[], Any]) -> Any:
        def run() -> None:
            kept[name] = operation()

        taken[name] = seconds_of(run, place)
        return kept[name]

    def load() -> Tracer:
        from haiftrace.checkpoint.load import load_checkpoint
        from haiftrace.store import Index

        return Tracer(Index.open(index), load_checkpoint(model, device=device))

    asked = [json.loads(line) for line in probes.read_text("utf-8").splitlines()[:2]]
    leaks = [Leak(probe["prompt"], probe["response"]) for probe in asked]
    tracer = step(START, load)
    step(GENERATION, lambda: _generated(tracer, leaks[0].prompt))
    _, scored = tracer.query(leaks[0], PromptSettings())
    budget = SearchBudget(candidates=candidates)
    rows = step(SEARCH, lambda: tracer.session.model.candidates.of([scored.batch], budget))
    (method,) = find_methods("layerwise")
    settings = MethodSettings()
    run = ScoringRun(settings, tracer.session.model.rule([method], settings), Silent())
    step(EXACT, lambda: tracer.session.scores([scored], rows, method, run))
    step(WHOLE, lambda: tracer.trace(leaks[1], TraceSettings(candidates=candidates), Silent()))
    return {**taken, "tokens": scored.token_count}


def _generated(tracer: Tracer, prompt: str) -> None:
    """An answer; a model with random weights may say nothing that can be read."""
    from haiftrace.errors import NoAnswerError
    from haiftrace.query.prompt_text import PromptSettings
    from haiftrace.tracing.settings import Leak

    with suppress(NoAnswerError):
        tracer.query(Leak(prompt), PromptSettings(max_new_tokens=16))


if __name__ == "__main__":
    index, model, probes, threads, device, candidates = sys.argv[1:]
    if device == "cpu":
        import torch

        torch.set_num_threads(int(threads))
    print(json.dumps(trace_steps(Path(index), Path(model), Path(probes), device, int(candidates))))
