"""Exact scores over the checkpoints of a training run: TracInCP and ATTIF.

Windows are taken in blocks, and the checkpoints are visited one after the other for each, as only
one model is in memory. ATTIF's outer norm is that of a sum over checkpoints, whose vectors exist
one at a time, so a block's sums are held: as many windows a block as the memory for them allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.checkpoint.trajectory import TrainingTrajectory
from haiftrace.errors import UsageError
from haiftrace.methods import Rule, TrajectoryMethod
from haiftrace.methods.families import TOKENS, bounded, inverse
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.family import ScoringQuery
from haiftrace.scoring.gradient.norms import HAIF_NORMS
from haiftrace.scoring.gradient.query_vectors import QueryGradient, QueryVector
from haiftrace.scoring.top_records import ScoredWindow
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import Batch, GradientEngine

SUPPLEMENT = "attif-norms"
BLOCK = 1024
"""Windows of a block whose vectors need not be held."""


def training_run(
    methods: str, settings: MethodSettings, checkpoint: Checkpoint
) -> TrainingTrajectory:
    """The checkpoints that the methods look at.

    Raises:
        HaiftraceError: none are named, or they cannot be used.
    """
    if settings.checkpoints is None:
        raise UsageError(
            f"The checkpoints of the training run are needed for {methods}.",
            "Give --checkpoints with the Trainer's output directory, or PATH:LR,PATH:LR.",
        )
    return TrainingTrajectory.read(settings.checkpoints, checkpoint)


def attif_settings(trajectory: TrainingTrajectory, rule: Rule) -> dict[str, Any]:
    """What kept norms depend on."""
    steps = [[step.fingerprint, step.learning_rate] for step in trajectory.steps]
    return {"steps": steps, "adjust": str(rule.adjustment)}


@dataclass
class WindowSums:
    """What is gathered of one window over the checkpoints.

    Attributes:
        token_norms: [m] ‖g_kj(θ_t)‖ of the labels, for every checkpoint t.
        mean: [T] Σ_t η_t v_t·g_kj(θ_t)/m.
        adjusted: [T] Σ_t η_t v·A(g_kj(θ_t)).
        vector: Σ_j Σ_t η_t A(g_kj(θ_t)), until its norm is taken.
        adjusted_norm: of that vector.
    """

    window: StoredWindow
    token_norms: list[np.ndarray] = field(default_factory=list)
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    adjusted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    vector: dict[str, Tensor] | None = None
    adjusted_norm: float = 0.0

    def __post_init__(self) -> None:
        self.mean = np.zeros(len(self.window.token_ids))
        self.adjusted = np.zeros(len(self.window.token_ids))

    def add(self, vector: dict[str, Tensor], factor: float) -> None:
        """Adds a checkpoint's term of the vector."""
        if self.vector is None:
            self.vector = {name: each * factor for name, each in vector.items()}
            return
        for name, each in vector.items():
            self.vector[name].add_(each, alpha=factor)


class TrajectorySums:
    """Scores windows by methods over a training run, from sums over its checkpoints.

    Args:
        memory: bytes that a block's vectors may take.
        stored: False to compute even the norms that the index holds.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        trajectory: TrainingTrajectory,
        rule: Rule,
        memory: int,
        stored: bool = True,
    ) -> None:
        self._index = index
        self._engine = engine
        self._trajectory = trajectory
        self._rule = rule
        self._memory = memory
        entry = index.supplement(SUPPLEMENT)
        wanted = attif_settings(trajectory, rule)
        self.notes = trajectory.notes
        self.has_norms = stored and entry is not None and entry.settings == wanted

    def score(
        self,
        rows: Iterable[int],
        methods: Sequence[TrajectoryMethod],
        query: ScoringQuery,
        add: Mapping[str, Callable[[ScoredWindow], None]],
        progress: Progress,
    ) -> float:
        """Scores every window by every method.

        Args:
            add: takes a window that is scored, by the method's name.

        Returns:
            ‖v‖ at the traced checkpoint.
        """
        adjusted = any(method.adjusted for method in methods)
        means = any(not method.adjusted for method in methods)
        # Formed before other checkpoints are visited.
        traced = QueryGradient(self._engine, query).vector
        for block in self._blocks(rows, adjusted):
            sums = self._gather(block, query, traced, adjusted, means, progress)
            for of_window in sums.values():
                for method in methods:
                    add[method.name](self._scored(of_window, method, traced.norm))
        return traced.norm

    def norms(self, rows: Iterable[int], progress: Progress) -> Iterator[WindowSums]:
        """What `attif-norms` keeps of each window, in the order of rows."""
        for block in self._blocks(rows, True):
            yield from self._gather(block, None, None, True, False, progress).values()

    def _blocks(self, rows: Iterable[int], adjusted: bool) -> Iterator[list[int]]:
        size = BLOCK
        if adjusted and not self.has_norms:
            size = max(1, min(BLOCK, self._memory // self._engine.gradient_bytes))
        numbers = iter(rows)
        while block := list(islice(numbers, size)):
            yield block

    def _gather(
        self,
        block: list[int],
        query: ScoringQuery | None,
        traced: QueryVector | None,
        adjusted: bool,
        means: bool,
        progress: Progress,
    ) -> dict[int, WindowSums]:
        sums: dict[int, WindowSums] = {}
        steps = self._trajectory.steps
        last = traced if adjusted else None
        with self._trajectory.visiting() as visits:
            for number, step in enumerate(visits):
                there = None
                if means and query is not None:
                    there = QueryGradient(self._engine, query).vector
                for windows in window_batches(self._index, block, self._engine.device):
                    here = [sums.setdefault(w.row, WindowSums(w)) for w in windows]
                    batch = batch_of(windows, self._engine.device)
                    if adjusted:
                        self._token_norms(here, batch, number)
                        self._add_vectors(here, batch, step.learning_rate)
                    if query is not None:
                        self._add_dots(here, batch, step.learning_rate, there, last)
                    visit = len(windows) / len(steps)
                    progress.advance(visit, tokens=token_count(windows))
        for of_window in sums.values():
            self._take_norm(of_window)
        return {row: sums[row] for row in block}

    def _token_norms(self, here: Sequence[WindowSums], batch: Batch, number: int) -> None:
        if self.has_norms:
            for sums in here:
                values = self._index.supplement_values(SUPPLEMENT, sums.window.row)
                sums.token_norms.append(np.asarray(values[f"token_norms_{number}"]))
                sums.adjusted_norm = float(values["adjusted_norm"])
            return
        if self._is_indexed(number) and self._index.supplement(HAIF_NORMS) is not None:
            for sums in here:
                values = self._index.supplement_values(HAIF_NORMS, sums.window.row)
                sums.token_norms.append(np.asarray(values[TOKENS]))
            return
        norms_BT = self._engine.token_gradients(batch).norms_BT.cpu().numpy()
        for sums, norms_T in zip(here, norms_BT, strict=True):
            labels = np.asarray(sums.window.labels)
            sums.token_norms.append(norms_T[: len(labels)][labels])

    def _is_indexed(self, number: int) -> bool:
        fingerprint = self._trajectory.steps[number].fingerprint
        return bool(fingerprint == self._index.fingerprints["weights"])

    def _weights(self, sums: WindowSums) -> np.ndarray:
        """[T] W of the latest checkpoint's norms, 0 where the token is no label."""
        labels = np.asarray(sums.window.labels)
        weights = np.zeros(len(labels))
        weights[labels] = self._rule.weights(sums.token_norms[-1])
        return weights

    def _add_vectors(self, here: Sequence[WindowSums], batch: Batch, rate: float) -> None:
        import torch

        if self.has_norms or self._rule.combine != "sum":
            return
        for sums, row in zip(here, batch.rows(), strict=True):
            weights_BT = torch.from_numpy(self._weights(sums)).unsqueeze(0).to(self._engine.device)
            sums.add(self._engine.gradient(row, weights_BT), rate)

    def _add_dots(
        self,
        here: Sequence[WindowSums],
        batch: Batch,
        rate: float,
        there: QueryVector | None,
        last: QueryVector | None,
    ) -> None:
        vectors = [vector for vector in (there, last) if vector is not None]
        _, dots_QBT = self._engine.directional_derivatives(
            batch, [vector.unit for vector in vectors]
        )
        dots = iter(dots_QBT.cpu().numpy())
        if there is not None:
            for sums, dots_T in zip(here, next(dots), strict=True):
                labels = np.asarray(sums.window.labels)
                scale = rate * there.norm / max(1, int(labels.sum()))
                sums.mean += labels * dots_T[: len(labels)] * scale
        if last is not None:
            for sums, dots_T in zip(here, next(dots), strict=True):
                weights = self._weights(sums)
                sums.adjusted += weights * dots_T[: len(weights)] * (rate * last.norm)

    @staticmethod
    def _take_norm(sums: WindowSums) -> None:
        if sums.vector is not None:
            squares = (float(each.double().pow(2).sum()) for each in sums.vector.values())
            sums.adjusted_norm = sum(squares) ** 0.5
            sums.vector = None

    def _scored(
        self, sums: WindowSums, method: TrajectoryMethod, query_norm: float
    ) -> ScoredWindow:
        if not method.adjusted:
            return ScoredWindow(sums.window, float(sums.mean.sum()), None, sums.mean)
        evidence = self._rule.combined(sums.adjusted, np.asarray(sums.window.labels))
        if self._rule.combine == "sum":
            evidence = evidence * inverse(sums.adjusted_norm)
        score = float(evidence.sum())
        return ScoredWindow(sums.window, score, bounded(score * inverse(query_norm)), evidence)
