"""Shards made by this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from haiftrace.index.plan import PlannedShard
from haiftrace.index.shard_maker import ShardMaker
from haiftrace.index.workers.workforce import Made, ShardJob

if TYPE_CHECKING:
    from haiftrace.corpus.windows import Window


class InProcess:
    """The plain run."""

    def make(
        self,
        shards: Sequence[PlannedShard],
        maker: ShardMaker,
        job: ShardJob,
        passed: Callable[[Sequence[Window]], None],
        done: Callable[[PlannedShard], None],
    ) -> Generator[Made, None, None]:
        """See `Workforce`."""
        for planned in shards:
            yield planned, maker.make(planned, passed)
