"""What a supplement was computed from, as digests in its entry: it counts for nothing else.

Names: "weights", "tokenizer" and "corpus" (the index's fingerprints), "settings" (the index's),
"rows" (every row file, the search index, what was appended and masked; "" for a supplement that the
rows depend on, and not it on them), and "supplement NAME" for each other supplement that it was
computed with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

from haiftrace.store.manifest import Manifest, SupplementEntry, digest_of

_SUPPLEMENT = "supplement "


def basis_of(
    manifest: Manifest, depends_on: Iterable[str] = (), *, rows: bool = True
) -> dict[str, str]:
    """The digests that a supplement made now is bound to.

    Args:
        manifest: of the index.
        depends_on: names of other supplements; one that is missing or unfinished is not bound.
        rows: whether it is computed from the index's rows; what these depend on is bound too.
    """
    basis = {name: digest_of(value) for name, value in manifest.fingerprints.items()}
    basis["settings"] = digest_of(manifest.settings)
    basis["rows"] = _rows_digest(manifest) if rows else ""
    before_rows = [n for n, entry in manifest.supplements.items() if _precedes_rows(entry)]
    for name in (*(before_rows if rows else ()), *depends_on):
        entry = manifest.supplements.get(name)
        if entry is not None and entry.complete:
            basis[_SUPPLEMENT + name] = _entry_digest(entry)
    return basis


def misfit(manifest: Manifest, name: str) -> str | None:
    """What a supplement was made from that the index has no more; None where all of it fits."""
    basis = manifest.supplements[name].basis
    rows = not _precedes_rows(manifest.supplements[name])
    now = basis_of(manifest, manifest.supplements, rows=rows)
    required = {key for key in now if not key.startswith(_SUPPLEMENT)}
    for key in sorted(required | set(basis)):
        if basis.get(key) != now.get(key):
            return f"another {key}"
    return None


def rebound(manifest: Manifest) -> dict[str, SupplementEntry]:
    """The supplements that do not depend on the rows, bound to the index as it is now."""
    basis = basis_of(manifest, rows=False)
    return {
        name: replace(entry, basis=basis)
        for name, entry in manifest.supplements.items()
        if _precedes_rows(entry)
    }


def check_basis(manifest: Manifest) -> None:
    """Compare every supplement with what it is bound to.

    Raises:
        ValueError: naming the first that does not belong to the index.
    """
    for name in sorted(manifest.supplements):
        what = misfit(manifest, name)
        if what is not None:
            raise ValueError(f"supplements/{name} was made from {what}")


def without_misfits(
    manifest: Manifest, supplements: Mapping[str, SupplementEntry]
) -> dict[str, SupplementEntry]:
    """The supplements that still fit when these take the place of the manifest's.

    One that was computed with another is left out with it.
    """
    kept = dict(supplements)
    while True:
        trial = replace(manifest, supplements=kept)
        fitting = {name: entry for name, entry in kept.items() if misfit(trial, name) is None}
        if len(fitting) == len(kept):
            return kept
        kept = fitting


def _precedes_rows(entry: SupplementEntry) -> bool:
    return entry.basis.get("rows") == ""


def _rows_digest(manifest: Manifest) -> str:
    searched, inverted = manifest.token_faiss, manifest.token_ivf
    return digest_of(
        {
            "shards": [asdict(shard.records) for shard in manifest.shards],
            "token_faiss": None if searched is None else asdict(searched),
            **({} if inverted is None else {"token_ivf": asdict(inverted)}),
            "appended": [asdict(corpus) for corpus in manifest.appended],
            "dropped": [asdict(record) for record in manifest.dropped],
        }
    )


def _entry_digest(entry: SupplementEntry) -> str:
    return digest_of(
        {
            "settings": entry.settings,
            "files": [asdict(file) for file in entry.files],
            "basis": entry.basis,
        }
    )
