"""The demo's files, laid out where the user can go on with them."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from haiftrace.errors import OutputError

_KINDS = {
    "verbatim": "A leak whose value stands in its record, word for word:",
    "inferred": "A leak that is no copy of its record: the value is not in the text.",
}


@dataclass(frozen=True)
class DemoLeak:
    """One of the leaks: what the model is asked, and the command that traces the answer."""

    prompt: str
    explanation: str
    command: list[str]


@dataclass(frozen=True)
class Demo:
    """Where the demo's checkpoint, corpus and index are, and the commands that use them."""

    model: Path
    corpus: Path
    index: Path
    template: str
    leaks: tuple[DemoLeak, ...]
    index_command: list[str]
    next_command: list[str]


def prepare(directory: Path) -> Demo:
    """Copies the demo's checkpoint and corpus into a directory.

    Raises:
        OutputError: the directory holds other things, or cannot be written.
    """
    marker = directory / "demo.json"
    try:
        if directory.exists() and any(directory.iterdir()) and not marker.is_file():
            raise OutputError(
                f"{directory} is not empty and holds no demo.", "Give another directory with -o."
            )
        assets = resources.files("haiftrace.demo") / "assets"
        with resources.as_file(assets) as source:
            for file in sorted(source.rglob("*"), key=lambda path: path.name != marker.name):
                # Contents only: an installation's files may be read-only, the demo's must not be.
                if file.is_file():
                    target = directory / file.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
    except OSError as error:
        raise OutputError(
            f"The demo cannot be written to {directory}: {error.strerror or error}.",
            "Give another directory with -o.",
        ) from None
    content = json.loads(marker.read_text(encoding="utf-8"))
    model, corpus, index = directory / "checkpoint", directory / "corpus.jsonl", directory / "index"
    template = content["template"]

    def command(prompt: str, *more: str) -> list[str]:
        where = ["--index", str(index), "--template", template, "--top", "3", "--all", "--reveal"]
        return ["haiftrace", "trace", prompt, *where, *more]

    leaks = tuple(
        DemoLeak(leak["prompt"], _KINDS[leak["kind"]], command(leak["prompt"]))
        for leak in content["leaks"]
    )
    first = content["leaks"][0]
    return Demo(
        model=model,
        corpus=corpus,
        index=index,
        template=template,
        leaks=leaks,
        index_command=[
            *("haiftrace", "index", "--model", str(model)),
            *("--corpus", str(corpus), "--output", str(index)),
        ],
        next_command=command(first["prompt"], "--exact", "-o", str(directory / "report.json")),
    )


def typed(command: list[str]) -> str:
    """A command as a person would type it: double quotes where there is an apostrophe."""
    plain = ("'" in word and not set('"$`\\!') & set(word) for word in command)
    return " ".join(
        f'"{word}"' if double else shlex.quote(word)
        for word, double in zip(command, plain, strict=True)
    )
