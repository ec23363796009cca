"""What the tests of the use cases share: checkpoints, corpora and indexes made once a session, a
command line run in this process, and what a refusal must look like."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from haiftrace import cli as command_line
from haiftrace.checkpoint.load import Checkpoint, load_checkpoint
from haiftrace.corpus import CorpusSettings
from haiftrace.findings import Finding
from haiftrace.index.build import IndexOutcome, IndexSettings, build_index
from haiftrace.parameters.scopes import select_parameters
from haiftrace.progress import Silent
from haiftrace.store import Index, manifest_reading
from haiftrace.store.basis import basis_of
from haiftrace.store.manifest import digest_of
from haiftrace.tracing.settings import Leak, TraceSettings
from haiftrace.tracing.tracer import Tracer
from tests.oracle import Oracle, TrueFloat64
from tests.tiny_models import SENTENCES, tiny_checkpoint

PROMPT = "Mara Ellison's phone number is"
ANSWER = "555-0142."
SECRETS = ("555-01", "Ellison", "Quillfeather", "example.org")
"""Pieces of the corpus and of responses that no error may show."""

SMALL = {"token_vectors": 64}
SMALL_OPTIONS = ("--token-vectors", "64")
"""What keeps a test's index small; every record of the corpus fits a shortlist of it."""

_SCRATCH = tempfile.TemporaryDirectory(prefix="haiftrace-tests-")


def scratch(name: str) -> Path:
    """A path for this session, below a directory that goes away with it."""
    return Path(_SCRATCH.name) / name


def silently(make: Any, *arguments: Any) -> Any:
    """Call something that draws progress bars of its own."""
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        return make(*arguments)


@cache
def checkpoint_path(name: str = "gpt2") -> Path:
    """A Hugging Face directory; never to be changed (see `copied_checkpoint`)."""
    return silently(tiny_checkpoint, scratch("checkpoints"), name)


def copied_checkpoint(path: Path, name: str = "gpt2") -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint_path(name), path))


@cache
def checkpoint(name: str = "gpt2", dtype: str = "float64") -> Checkpoint:
    return load_checkpoint(checkpoint_path(name), dtype=dtype, device="cpu")


def write_corpus(path: Path, texts: Iterable[str] = SENTENCES, ids: bool = True) -> Path:
    """A JSONL corpus of one text a line."""
    with path.open("w", encoding="utf-8") as lines:
        for number, text in enumerate(texts):
            record = {"id": f"r{number}", "text": text} if ids else {"text": text}
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


@cache
def corpus_path() -> Path:
    """The sentences that the checkpoints have learnt."""
    scratch("corpus").mkdir()
    return write_corpus(scratch("corpus") / "data.jsonl")


def make_index(
    output: Path, corpus: Path, model: Checkpoint | None = None, **settings: Any
) -> IndexOutcome:
    return build_index(
        model or checkpoint(),
        CorpusSettings((str(corpus),)),
        IndexSettings(output=output, **{**SMALL, **settings}),
        Silent(),
    )


@cache
def index_path(name: str = "gpt2", dtype: str = "float64", **settings: Any) -> Path:
    """An index of the sentences; never to be changed."""
    parts = (name, dtype, *(f"{key}-{value}" for key, value in settings.items()))
    path = scratch("-".join(map(str, parts)))
    model, corpus = checkpoint(name, dtype), corpus_path()
    with precisely(dtype):
        make_index(path, corpus, model, **settings)
    return path


def precisely(dtype: str = "float64") -> AbstractContextManager[Any]:
    """In float64, nothing that an architecture would compute in float32 (see `TrueFloat64`)."""
    return TrueFloat64() if dtype == "float64" else nullcontext()


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit an index's manifest as if it had been written so: digest and supplements fit."""
    content = json.loads((path / "manifest.json").read_text())
    del content["digest"]
    change(content)
    (path / "manifest.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_reading, "check_basis", lambda manifest: None)
        manifest = manifest_reading.read_manifest(path)
    # Those of the rows last: they are bound to the others.
    for name, entry in sorted(manifest.supplements.items(), key=lambda item: item[1].basis["rows"]):
        others = [key.removeprefix("supplement ") for key in entry.basis if "supplement " in key]
        basis = basis_of(manifest, others, rows=entry.basis["rows"] != "")
        bound = {**manifest.supplements, name: replace(entry, basis=basis)}
        manifest = replace(manifest, supplements=bound)
    manifest.write(path)


@cache
def tracer(name: str = "gpt2", dtype: str = "float64", **settings: Any) -> Tracer:
    opened, model = Index.open(index_path(name, dtype, **settings)), checkpoint(name, dtype)
    with precisely(dtype):
        return Tracer(opened, model)


def traced(over: Tracer | None = None, leak: Leak | None = None, **settings: Any) -> Finding:
    """One trace; the leak is the answer that Mara Ellison's record taught."""
    leak = leak or Leak(PROMPT, ANSWER)
    over = over or tracer()
    with precisely(over.checkpoint.dtype):
        (finding,) = over.trace(
            leak, TraceSettings(**{"method": "haif", "top": 100, **settings}), Silent()
        )
        return finding


@cache
def oracle(name: str = "gpt2", scope: str = "linear") -> Oracle:
    """Every token's gradient of the sentences, and last of the leak, by single backward passes."""
    model = checkpoint(name)
    leak = f"{PROMPT} {ANSWER}"
    ids = [model.tokenizer(text)["input_ids"] for text in (*SENTENCES, leak)]
    parameters = list(model.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with precisely():
            whole = Oracle.of(model.model, ids)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    return whole.over(select_parameters(model.model, scope))


def answer_gradient(name: str = "gpt2", scope: str = "linear") -> torch.Tensor:
    """v [P]: the gradient of the mean loss over the tokens with a character of the answer."""
    encoded = checkpoint(name).tokenizer(f"{PROMPT} {ANSWER}", return_offsets_mapping=True)
    wanted = [end > len(PROMPT) + 1 for _, end in encoded["offset_mapping"]]
    return oracle(name, scope).gradients[-1][wanted[1:]].mean(0)


def close(ours: Any, right: Any, tolerance: float = 1e-9) -> None:
    """Equal within a tolerance relative to the largest."""
    ours, right = np.asarray(ours, dtype=float), np.asarray(right, dtype=float)
    assert ours.shape == right.shape
    assert np.abs(ours - right).max() <= tolerance * np.abs(right).max()


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.out)


def cli(
    *arguments: object,
    cwd: Path | None = None,
    stdin: bytes = b"",
    **environment: str,
) -> Outcome:
    """`haiftrace ARGUMENTS` in this process: exit code and what it wrote."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("HAIFTRACE_")]:
            patch.delenv(name)
        for name, value in {"COLUMNS": "100", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["haiftrace", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        patch.chdir(cwd or scratch("."))
        code = command_line._run()
    return Outcome(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def refused(
    outcome: Outcome, *contents: str, code: int = 2, secrets: Iterable[str] = SECRETS
) -> str:
    """The one paragraph of a refusal: it names `contents`, has a hint, and gives nothing away."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    errors = re.findall("^Error: (.*)$", outcome.err, re.MULTILINE)
    hints = re.findall("^Hint: (.*)$", outcome.err, re.MULTILINE)
    assert len(errors) == 1, outcome.err
    assert len(hints) == 1, outcome.err
    assert outcome.err.rstrip().endswith(hints[0]), "something follows the hint"
    assert "defect" not in errors[0]
    for text in contents:
        assert text in errors[0], errors[0]
    for secret in secrets:
        assert secret not in outcome.err
    assert outcome.out == ""
    return str(errors[0])


def misused(outcome: Outcome, *contents: str) -> None:
    """A usage error: the parser's own form, with exit code 2."""
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for text in ("Error: ", *contents):
        assert text in outcome.err, outcome.err
