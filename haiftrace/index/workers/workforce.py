"""The protocol of who makes shards, and what a worker in another process is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from haiftrace import corpus as corpora
from haiftrace.corpus import CorpusSettings
from haiftrace.errors import IndexStoreError, StaleIndexError
from haiftrace.index.census import Reader
from haiftrace.index.plan import PlannedShard
from haiftrace.index.shard_maker import ShardMaker
from haiftrace.parameters.scopes import ADAPTER_SCOPE
from haiftrace.scoring.indexed_gradients import choose_gradients, whitened
from haiftrace.scoring.layerwise.similarity import WHITENING
from haiftrace.store import Layout, StagedShard, kept_tensors, read_manifest

if TYPE_CHECKING:
    from haiftrace.corpus.windows import Window

Made = tuple[PlannedShard, StagedShard]
"""A shard and its files, written aside."""


class Workforce(Protocol):
    """Makes shards in any order, each exactly as any other workforce would."""

    def make(
        self,
        shards: Sequence[PlannedShard],
        maker: ShardMaker,
        job: ShardJob,
        passed: Callable[[Sequence[Window]], None],
        done: Callable[[PlannedShard], None],
    ) -> Generator[Made, None, None]:
        """Give each shard as soon as its files are durable; closing the generator ends the work.

        Args:
            shards: those that are wanted.
            maker: of this process.
            job: what another process makes such a maker from.
            passed: is told of each batch that is done, where this process computes it.
            done: is told of each shard that is done, where another process computes it.

        Raises:
            HaiftraceError: what a worker ran into, or that workers died again and again.
        """
        ...


@dataclass(frozen=True)
class ShardJob:
    """All that the shards of an index are a function of; it can be sent to another process.

    Attributes:
        root: directory of the index, absolute.
        store: URI of the store that `root` is the working copy of, on the machine of the command;
            None where it is none.
        directory: the working directory, under which the corpus is named.
        model, base_model: directories of the checkpoint, and of an adapter's base.
        dtype, device, memory: as `load_checkpoint` and `choose_gradients` take them.
        scope: of full gradients.
        corpus, context, append_eos: how the corpus is read.
        token_vectors, seed, shard_records: as in `IndexSettings`.
        fingerprints: of weights, tokenizer and corpus.
    """

    root: Path
    store: str | None
    directory: Path
    model: Path
    base_model: Path | None
    dtype: str
    device: str
    memory: int
    scope: str
    corpus: CorpusSettings
    context: int
    append_eos: bool
    token_vectors: int
    seed: int
    shard_records: int
    fingerprints: dict[str, Any]

    def maker(self, device: str, threads: int | None) -> ShardMaker:
        """What makes shards in this process.

        Args:
            device: of this worker.
            threads: of a CPU; None for as many as the model takes by itself.

        Raises:
            HaiftraceError: index, checkpoint or corpus cannot be read here, or are others here.
        """
        import torch

        from haiftrace.checkpoint.load import load_checkpoint
        from haiftrace.engine import DirectGradients

        self._enter()
        checkpoint = load_checkpoint(
            self.model,
            dtype=self.dtype,
            device=device,
            base_model=self.base_model,
            unmerged=self.scope == ADAPTER_SCOPE,
        )
        if threads is not None and torch.get_num_threads() > threads:
            torch.set_num_threads(threads)
        here = {
            "weights": checkpoint.fingerprint,
            "tokenizer": checkpoint.tokenizer_fingerprint,
            "corpus": corpora.fingerprint(self.corpus),
        }
        others = [name for name in here if here[name] != self.fingerprints[name]]
        if others:
            raise StaleIndexError(
                f"A worker reads other {' and '.join(others)} than the command does.",
                "Keep checkpoint and corpus where every worker reads the same files.",
            )
        similarity = choose_gradients(checkpoint, self.scope, self.memory).similarity
        if isinstance(similarity, DirectGradients):
            manifest = read_manifest(self.root)
            matrices = manifest and kept_tensors(self.root, manifest, WHITENING)
            if not matrices:
                raise IndexStoreError(
                    f"A worker cannot see the index {self.root} as the command does.",
                    "Give a directory that all workers share with -o.",
                )
            similarity = whitened(similarity, matrices)
        reader = Reader(checkpoint, self.corpus, self.context, self.append_eos)
        layout = Layout(self.token_vectors)
        return ShardMaker(self.root, reader, similarity, layout, self.seed, self.shard_records)

    def _enter(self) -> None:
        try:
            os.chdir(self.directory)
        except OSError as error:
            raise IndexStoreError(
                f"A worker cannot enter the directory {self.directory}: {error.strerror}.",
                "Run the command in a directory that all workers share.",
            ) from error
