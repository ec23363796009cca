"""Whether an index still belongs to its checkpoint and corpus: if not, nothing is traced."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings
from haiftrace.errors import CorpusError, DamagedIndexError, StaleIndexError
from haiftrace.parameters.scopes import ADAPTER_SCOPE
from haiftrace.store import Index
from haiftrace.store.manifest import REBUILD_HINT

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

_OF_THE_FIRST = ("limit", "sample_records", "seed")
"""How much of the first corpus is read, which says nothing of one that is appended."""


def load_indexed(index: Index, model: str | None, device: str) -> Checkpoint:
    """The checkpoint that an index was made from, where it was or where it is now.

    Raises:
        HaiftraceError: it cannot be loaded, or is another one.
    """
    from haiftrace.checkpoint.adapters import model_fingerprint
    from haiftrace.checkpoint.load import load_checkpoint

    path = model or index.settings["model_path"]
    base = index.settings.get("base_model")
    if base is not None and not Path(base).is_dir():
        base = None  # moved: where the adapter says, then
    if Path(path).exists() and model_fingerprint(path, base) != index.fingerprints["weights"]:
        raise _stale(index, "checkpoint", path)
    dtype = index.settings["dtype"]
    unmerged = index.settings["scope"] == ADAPTER_SCOPE
    checkpoint = load_checkpoint(
        path, dtype=dtype, device=device, base_model=base, unmerged=unmerged
    )
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


@dataclass(frozen=True)
class IndexedCorpus:
    """Corpus files that an index was made from, at once or later by --append.

    Attributes:
        settings: what was read, and how.
        fingerprint: what `haiftrace.corpus.fingerprint` gave then.
    """

    settings: CorpusSettings
    fingerprint: str


def indexed_corpora(index: Index) -> list[IndexedCorpus]:
    """The first corpus of an index, and those that were appended, in order.

    Raises:
        DamagedIndexError: the manifest does not say.
    """
    try:
        kept = dict(index.settings["corpus"])
        first = CorpusSettings(paths=tuple(kept.pop("paths")), **kept)
        for name in _OF_THE_FIRST:
            kept.pop(name, None)
        return [
            IndexedCorpus(first, index.fingerprints["corpus"]),
            *(
                IndexedCorpus(CorpusSettings(paths=each.paths, **kept), each.fingerprint)
                for each in index.manifest.appended
            ),
        ]
    except (KeyError, TypeError, ValueError, AttributeError, CorpusError) as error:
        raise DamagedIndexError(
            f"{index.path / 'manifest.json'} is damaged: it does not say how the corpus was read.",
            REBUILD_HINT,
        ) from error


def check_corpus(index: Index) -> tuple[str, ...]:
    """Refuses a changed corpus; a missing one is worth a note, since the index has the texts."""
    for corpus in indexed_corpora(index):
        try:
            now = corpora.fingerprint(corpus.settings)
        except CorpusError:
            return ("the corpus is not where it was indexed; the texts are the index's own",)
        if now != corpus.fingerprint:
            error = _stale(index, "corpus", ", ".join(corpus.settings.paths))
            directory = shlex.quote(str(index.path))
            raise StaleIndexError(
                error.message,
                f"{error.hint} `haiftrace index --verify {directory}` lists what changed; where"
                " only dropped records are missing from it, run `haiftrace index --compact -o"
                f" {directory}`.",
            )
    return ()
