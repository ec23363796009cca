"""Whether an index still belongs to its checkpoint and corpus: if not, nothing is traced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings
from haiftrace.errors import CorpusError, StaleIndexError
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


def load_indexed(index: Index, model: str | None, device: str) -> Checkpoint:
    """The checkpoint that an index was made from, where it was or where it is now.

    Raises:
        HaiftraceError: it cannot be loaded, or is another one.
    """
    from haiftrace.checkpoint.files import checkpoint_fingerprint
    from haiftrace.checkpoint.load import load_checkpoint

    path = model or index.settings["model_path"]
    if Path(path).is_dir() and checkpoint_fingerprint(Path(path)) != index.fingerprints["weights"]:
        raise _stale(index, "checkpoint", path)
    checkpoint = load_checkpoint(path, dtype=index.settings["dtype"], device=device)
    check_fresh(index, checkpoint)
    return checkpoint


def _stale(index: Index, what: str, path: object) -> StaleIndexError:
    return StaleIndexError(
        f"The index {index.path} was made from another {what} than {path}.",
        "Index the present one with `haiftrace index --overwrite`, or name the right one.",
    )


def check_fresh(index: Index, checkpoint: Checkpoint) -> None:
    """Raises StaleIndexError where the index was made from another checkpoint or tokenizer."""
    if index.fingerprints["weights"] != checkpoint.fingerprint:
        raise _stale(index, "checkpoint", checkpoint.path)
    if index.fingerprints["tokenizer"] != checkpoint.tokenizer_fingerprint:
        raise _stale(index, "tokenizer", checkpoint.path)


def check_corpus(index: Index) -> tuple[str, ...]:
    """Refuses a changed corpus; a missing one is worth a note, since the index has the texts."""
    kept = dict(index.settings["corpus"])
    paths = tuple(kept.pop("paths"))
    try:
        now = corpora.fingerprint(CorpusSettings(paths=paths, **kept))
    except CorpusError:
        return ("the corpus is not where it was indexed; the texts are the index's own",)
    if now != index.fingerprints["corpus"]:
        raise _stale(index, "corpus", ", ".join(paths))
    return ()
