"""The engine's operations in one process, on batches of random tokens, in turns.

`python -m haiftrace.bench.speed.operations SETTINGS` prints the times as JSON: each length of each
model is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from haiftrace.bench.speed.clock import take_turns
from haiftrace.device import choose_device, choose_dtype

if TYPE_CHECKING:
    import torch

    from haiftrace.engine import Batch, GradientEngine
    from haiftrace.engine.direct import DirectGradients

POSITIONS = 512
"""Tokens of a batch, about: shorter records are measured several at a time."""
LOOP_LABELS = 3
"""Labels that a loop of single backward passes is timed on; the rest is reckoned from them."""
LABELS_OF_FULL = 512
"""Labels of the longest record whose full gradients are measured: they cost a pass a token."""
DIMENSION = 2048
QUERY_TOKENS = (1, 32, 256)
FORWARD = "forward"
STEP = "forward, backward"
NORMS, LOOP = "full: norms", "full: loop of backward passes"


@dataclass(frozen=True)
class OperationSettings:
    """What to measure.

    Attributes:
        model: directory of a checkpoint.
        tokens: of a record.
        device, dtype: as `haiftrace.device` reads them.
        threads: of a CPU.
        rounds: how many at most.
        seconds: after which no further round begins.
        full: whether full gradients are measured too.
    """

    model: str
    tokens: int
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 1
    rounds: int = 5
    seconds: float = 60.0
    full: bool = True


def measure_operations(settings: OperationSettings) -> dict[str, Any]:
    """Seconds a record of each operation by round, and the hardware's rate of multiplications.

    Returns:
        records: of a batch; tokens: of a record; parameters; seconds: by operation, a list by round
        (a loop's are of all labels, reckoned from `LOOP_LABELS`); peak_gflops of a matrix product.
    """
    import torch

    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.engine import GradientEngine, make_batch
    from haiftrace.engine.direct import DirectGradients
    from haiftrace.parameters.scopes import select_parameters

    torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    records = max(1, POSITIONS // settings.tokens)
    checkpoint = load_checkpoint(settings.model, device=settings.device, dtype=settings.dtype)
    generator = torch.Generator().manual_seed(0)
    vocabulary = checkpoint.model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (records, settings.tokens), generator=generator).tolist()
    batch = make_batch(ids, device=device)
    direct = DirectGradients(checkpoint.model)
    operations = {
        **_plain(settings, batch),
        **_direct(direct, batch),
    }
    taken = take_turns(operations, device, settings.rounds, settings.seconds)
    if settings.full and settings.tokens <= LABELS_OF_FULL:
        names = select_parameters(checkpoint.model)
        engine = GradientEngine(checkpoint.model, names)
        row = make_batch(ids[:1], device=device)
        for name, operation, share in (
            (NORMS, lambda: engine.token_gradients(row), 1.0),
            (LOOP, lambda: _loop(engine, row), LOOP_LABELS / (settings.tokens - 1)),
        ):
            once = take_turns({name: operation}, device, 1, 0.0)[name]
            taken[name] = [seconds / share * records for seconds in once]
    return {
        "records": records,
        "tokens": settings.tokens,
        "parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "seconds": {name: [s / records for s in each] for name, each in taken.items()},
        "peak_gflops": _peak_gflops(device, choose_dtype(settings.dtype, device)),
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "device": device.type,
    }


def _plain(settings: OperationSettings, batch: Batch) -> dict[str, Callable[[], object]]:
    """The model as its library computes it: a forward pass, and what a training step does."""
    import torch
    from transformers import AutoModelForCausalLM

    device = batch.ids_BT.device
    dtype = choose_dtype(settings.dtype, device)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype).to(device)

    def loss() -> Any:
        return model(input_ids=batch.ids_BT, labels=batch.ids_BT, use_cache=False).loss

    def forward() -> None:
        with torch.no_grad():
            loss()

    def step() -> None:
        loss().backward()
        model.zero_grad()

    return {FORWARD: forward, STEP: step}


def _direct(direct: DirectGradients, batch: Batch) -> dict[str, Callable[[], object]]:
    """Direct gradients: the pass alone, and with each thing that is made of its factors."""
    from haiftrace.engine import make_batch
    from haiftrace.engine.direct import SecondMoments

    moments = SecondMoments()
    moments.add(*direct.value_inputs(batch))
    whitened = direct.whitened(moments.whitening())
    longest = max(QUERY_TOKENS)
    ids = [(batch.ids_BT[0].tolist() * (longest + 1))[: longest + 1]]
    positions = min(batch.length, longest + 1)
    # As many records of the query as have 256 labels together.
    rows = -(-longest // (positions - 1))
    asked = whitened.queries([make_batch([ids[0][:positions]] * rows, device=direct.device)])

    def dots(count: int) -> Callable[[], object]:
        queries = asked.select(range(count))
        return lambda: list(whitened.cosines(batch, queries)[1])

    return {
        "direct: losses and factors": lambda: whitened.run(batch, lambda *_: None),
        "direct: norms": lambda: whitened.measures(batch, 0, 0),
        f"direct: norms, {DIMENSION:,} projections": lambda: whitened.measures(batch, DIMENSION, 0),
        **{f"direct: dots with {count} tokens": dots(count) for count in QUERY_TOKENS},
        "direct: second moments": lambda: SecondMoments().add(*direct.value_inputs(batch)),
    }


def _loop(engine: GradientEngine, row: Batch) -> None:
    """A forward and a backward pass a label: the obvious way to a token's norm."""
    import torch

    parameters = [p.requires_grad_(True) for p in engine.parameters.values()]
    try:
        last = row.length - 1
        for label in torch.linspace(1, last, LOOP_LABELS).long().tolist():
            logits = engine.model(input_ids=row.ids_BT[:, :-1], use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[label - 1], row.ids_BT[0, label])
            gradients = torch.autograd.grad(loss, parameters)
            float(sum(gradient.double().square().sum() for gradient in gradients))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _peak_gflops(device: torch.device, dtype: torch.dtype, size: int = 1536) -> float:
    """Multiplications and additions a second (10⁹) of a square matrix product, the best of five."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(take_turns({"": lambda: left @ right}, device, 5, 60.0)[""])
    return 2 * size**3 / best / 1e9


def main() -> None:
    """Measures in this process and prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m haiftrace.bench.speed.operations")
    parser.add_argument("settings", help="OperationSettings as JSON")
    settings = OperationSettings(**json.loads(parser.parse_args().settings))
    print(json.dumps({**asdict(settings), **measure_operations(settings)}))


if __name__ == "__main__":
    main()
