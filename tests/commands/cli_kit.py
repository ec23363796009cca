"""What the tests of the command line share: its commands over small files, and what spoils them."""

from __future__ import annotations

from safetensors.torch import load_file, save_file

from tests import kit
from tests.kit import PROMPT, SMALL_OPTIONS, Outcome, cli

PRIVATE = "555-0199"


def index(tmp_path, model=None, corpus=None, *options):
    """`haiftrace index` into tmp_path / "index"."""
    arguments = ["index", "--model", model or kit.checkpoint_path()]
    arguments += ["--corpus", corpus or kit.corpus_path(), "-o", tmp_path / "index"]
    return cli(*arguments, *SMALL_OPTIONS, *options, cwd=tmp_path)


def trace(*options, prompt=PROMPT, **settings) -> Outcome:
    return cli("trace", prompt, "--index", kit.index_path(), *options, **settings)


def nothing_left(tmp_path):
    assert not (tmp_path / "index").exists()
    assert not list(tmp_path.glob("**/*.tmp"))


def with_weight(value):
    def spoil(path):
        weights = load_file(path / "model.safetensors")
        next(t for t in weights.values() if t.ndim == 2)[0, 0] = value
        save_file(weights, path / "model.safetensors", {"format": "pt"})

    return spoil
