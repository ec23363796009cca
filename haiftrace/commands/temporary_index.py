"""An index for one run: made in a temporary directory, traced over, and gone with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.commands.options import RunOptions
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.corpus import CorpusSettings
    from haiftrace.methods.settings import MethodSettings
    from haiftrace.progress import Progress


@contextmanager
def temporary_index(
    model: str | None,
    corpus: CorpusSettings,
    methods: str,
    settings: MethodSettings,
    run: RunOptions,
    progress: Progress,
) -> Iterator[Path]:
    """Indexes a corpus and calibrates it, for as long as the block lasts.

    Args:
        model: directory of the checkpoint.
        methods: whose verdicts are wanted; what they need is kept for them too.

    Raises:
        HaiftraceError: whatever is wrong with checkpoint or corpus.
    """
    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.completion import Completion, complete_index
    from haiftrace.corpus import corpus_files
    from haiftrace.index.build import IndexSettings, build_index
    from haiftrace.index.precompute import check_needs
    from haiftrace.methods import EK_FAC, find_methods

    if model is None:
        raise UsageError(
            "--corpus goes with --model: the checkpoint that was trained on it.",
            "Give both, or the index of an earlier run with --index.",
        )
    corpus_files(corpus)  # a mistyped path is refused before the model is loaded
    kept = [m.name for m in find_methods(methods) if m.adjusted or m.curvature == EK_FAC]
    memory = run.memory_bytes
    with tempfile.TemporaryDirectory(prefix="haiftrace-") as directory:
        path = Path(directory) / "index"
        progress.say("The index of this run is temporary; `haiftrace index` makes one to keep.")
        checkpoint = load_checkpoint(model, device=run.device)
        check_needs(checkpoint, None, methods, settings)
        build_index(checkpoint, corpus, IndexSettings(output=path, memory=memory), progress)
        wanted = Completion(",".join(kept) or None, methods, settings, memory=memory)
        complete_index(path, checkpoint, wanted, progress)
        del checkpoint  # who traces loads it again
        yield path
