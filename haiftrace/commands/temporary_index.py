"""An index for one run: made in a temporary directory, traced over, and gone with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    device: str,
    memory: int,
    progress: Progress,
) -> Iterator[Path]:
    """Indexes a corpus and calibrates it, for as long as the block lasts.

    Args:
        model: directory of the checkpoint.
        methods: whose verdicts are wanted; what they need is kept for them too.
        memory: bytes that a backward pass may take.

    Raises:
        HaiftraceError: whatever is wrong with checkpoint or corpus.
    """
    from haiftrace.corpus import corpus_files

    if model is None:
        raise UsageError(
            "--corpus goes with --model: the checkpoint that was trained on it.",
            "Give both, or the index of an earlier run with --index.",
        )
    corpus_files(corpus)  # a mistyped path is told before the model is loaded
    with tempfile.TemporaryDirectory(prefix="haiftrace-") as directory:
        path = Path(directory) / "index"
        progress.say("The index of this run is temporary; `haiftrace index` makes one to keep.")
        _make(path, model, corpus, methods, settings, device, memory, progress)
        yield path


def _make(
    path: Path,
    model: str,
    corpus: CorpusSettings,
    methods: str,
    settings: MethodSettings,
    device: str,
    memory: int,
    progress: Progress,
) -> None:
    # The checkpoint is held in here only: who traces loads it again.
    from haiftrace.calibration.calibrate import CalibrationSettings, calibrate
    from haiftrace.checkpoint.load import load_checkpoint
    from haiftrace.index.build import IndexSettings, build_index
    from haiftrace.index.precompute import check_needs, prepare
    from haiftrace.methods import INVERSE, GradientMethod, find_methods, is_adjusted

    needing = ",".join(
        method.name
        for method in find_methods(methods)
        if is_adjusted(method)
        or (isinstance(method, GradientMethod) and INVERSE in (method.direction, method.metric))
    )
    checkpoint = load_checkpoint(model, device=device)
    check_needs(checkpoint, None, methods, settings)
    build_index(checkpoint, corpus, IndexSettings(output=path, memory=memory), progress)
    if needing:
        prepare(path, checkpoint, needing, settings, memory, progress)
    wanted = CalibrationSettings(memory=memory)
    calibrate(path, checkpoint, methods, settings, wanted, progress)
