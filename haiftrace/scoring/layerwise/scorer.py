"""Exact scores by the layerwise rule: one pass through the windows for all questions of a run.

Questions are taken in blocks whose query gradients fit the memory (see `block`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from haiftrace.progress import Progress
from haiftrace.scoring.layerwise.block import Block, LayerwiseSearch, WindowScores
from haiftrace.scoring.layerwise.questions import AskedTokens
from haiftrace.scoring.layerwise.reference import ReferenceSample
from haiftrace.scoring.top_records import Tally
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import TokenSimilarity


class LayerwiseScorer:
    """Scores an index's windows.

    Args:
        similarity: of the indexed model.
        memory: bytes that the query gradients of a block of questions may take.
        sample: what z-scores are over.
    """

    def __init__(
        self, index: Index, similarity: TokenSimilarity, memory: int, sample: ReferenceSample
    ) -> None:
        self._index = index
        self._similarity = similarity
        self._memory = memory
        self._sample = sample

    def scores(self, searches: Sequence[LayerwiseSearch], progress: Progress) -> list[WindowScores]:
        """The scores of each search, of its own windows and the reference's."""
        return [scored for block in self._blocks(searches, progress) for scored in block.scored]

    def trace(
        self,
        searches: Sequence[LayerwiseSearch],
        tallies: Sequence[Tally],
        top: int,
        progress: Progress,
    ) -> list[int]:
        """The same into tallies, the best records with their evidence.

        Args:
            top: records that are wanted.

        Returns:
            How many windows were scored for each search.
        """
        counts: list[int] = []
        record_N = self._index.column("record")
        for block in self._blocks(searches, progress):
            tallies_here = tallies[len(counts) :]
            best = [scored.best(record_N, top) for scored in block.scored]
            for scored, chosen, tally in zip(block.scored, best, tallies_here, strict=False):
                counts.append(len(scored.rows_K))
                for row, score in zip(
                    scored.rows_K.tolist(), scored.scores_K.tolist(), strict=True
                ):
                    if row not in chosen:
                        tally.note(row, score)
            for number, shown in block.explain(best):
                tallies_here[number].add(shown)
        return counts

    def _blocks(self, searches: Sequence[LayerwiseSearch], progress: Progress) -> Iterator[Block]:
        for some in self._divided(searches):
            block = Block(self._index, self._similarity, some, self._sample)
            block.score(progress)
            yield block

    def _divided(self, searches: Sequence[LayerwiseSearch]) -> Iterator[Sequence[LayerwiseSearch]]:
        """Runs of searches whose query gradients fit the memory, of one at least."""
        if not searches:
            return
        queries = AskedTokens.of(self._similarity, [searches[0].question]).queries
        token_bytes = queries.nbytes // max(1, queries.count)
        start, tokens = 0, 0
        for at, search in enumerate(searches):
            count = int(search.question.labels_BT.sum())
            if at > start and (tokens + count) * token_bytes > self._memory:
                yield searches[start:at]
                start, tokens = at, 0
            tokens += count
        yield searches[start:]
