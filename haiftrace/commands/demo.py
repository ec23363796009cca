"""`haiftrace demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from haiftrace.commands.index import index
from haiftrace.commands.options import Option, Quiet
from haiftrace.commands.trace import trace

DEMO_DIRECTORY = Path("haiftrace-demo")


def demo(
    output: Annotated[
        Path, Option("--output", "-o", help="Directory to put the demo into.")
    ] = DEMO_DIRECTORY,
    quiet: Quiet = False,
) -> None:
    """Index and trace a small checkpoint that ships with haiftrace: offline, in under a minute."""
    from haiftrace.demo.run import prepare, typed

    demo = prepare(output)
    print(f"$ {typed(demo.index_command)}", flush=True)
    index(
        model=str(demo.model),
        corpus=[str(demo.corpus)],
        output=demo.index,
        quiet=quiet,
    )
    for leak in demo.leaks:
        print()
        print(f"{leak.explanation}\n$ {typed(leak.command)}", flush=True)
        trace(
            prompt=leak.prompt,
            template=demo.template,
            index=demo.index,
            top=3,
            below=True,
            reveal=True,
            quiet=quiet,
        )
    print()
    print("Go on with one of these commands, or your own checkpoint and corpus:")
    for command in (*(leak.command for leak in demo.leaks), demo.next_command):
        print(f"  {typed(command)}")
