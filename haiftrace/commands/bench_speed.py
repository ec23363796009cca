"""`haiftrace bench speed`: arguments only."""

from __future__ import annotations

from typing import Annotated, Literal

from haiftrace.commands.bench_options import OUT, Out, deliver
from haiftrace.commands.options import Device, Option, Quiet


def speed(
    models: Annotated[
        str,
        Option(
            help="Shapes with random weights (gpt2-10m, gpt2, qwen2-0.5b, qwen2-1.5b) or"
            " directories of checkpoints, with commas between."
        ),
    ] = "gpt2-10m,gpt2",
    lengths: Annotated[str, Option(help="Tokens of a record, with commas between.")] = "64,128,512",
    rounds: Annotated[int, Option(help="How often operations take turns, at most.", min=1)] = 5,
    seconds: Annotated[
        float, Option(help="After so many no further round of a length begins.", min=0)
    ] = 60,
    threads: Annotated[int, Option(help="Of the CPU.", min=1)] = 1,
    peer_python: Annotated[
        str | None,
        Option(
            help="Interpreter of an environment with bergson, kronfluence and dattri-llm, or some"
            " of them: the same records go through them too."
        ),
    ] = None,
    output: Out = OUT / "speed",
    device: Device = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Option(help="Of the engine's operations; the commands choose theirs themselves."),
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Speed of the engine and of the commands beside a training epoch, peers and the hardware.

    \b
    haiftrace bench speed
    haiftrace bench speed --models gpt2,qwen2-0.5b,./ckpt --lengths 64,128,512,1024,2048
    haiftrace bench speed --models qwen2-0.5b --peer-python ./peers/bin/python
    """
    from haiftrace.bench.speed.report import speed_results
    from haiftrace.bench.speed.run import SpeedSettings, numbers, run_speed

    settings = SpeedSettings(
        models=tuple(filter(None, models.split(","))),
        lengths=numbers(lengths),
        rounds=rounds,
        seconds=seconds,
        device=device,
        dtype=dtype,
        threads=threads,
        peer_python=peer_python,
    )
    deliver(lambda progress: speed_results(run_speed(settings, output, progress)), output, quiet)
