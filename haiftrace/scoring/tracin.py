"""Exact scores over the checkpoints of a training run: TracInCP and ATTIF.

Windows are taken in blocks; a block meets one checkpoint after the other, as only one model is in
memory. ATTIF's outer norm is that of a sum over checkpoints, whose vectors exist one at a time, so
a block's sums are held: as many windows a block as the memory for them allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.checkpoint.trajectory import Trajectory
from haiftrace.errors import UsageError
from haiftrace.methods import Rule, TrajectoryMethod
from haiftrace.methods.families import bounded, inverse
from haiftrace.methods.settings import MethodSettings
from haiftrace.progress import Progress
from haiftrace.scoring.batches import batch_of, token_count, window_batches
from haiftrace.scoring.norms import HAIF_NORMS, TOKENS
from haiftrace.scoring.query_gradient import Direction, Question
from haiftrace.scoring.top_records import Best, Scored
from haiftrace.store import Index, StoredWindow

if TYPE_CHECKING:
    from torch import Tensor

    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.engine import Batch, GradientEngine

SUPPLEMENT = "attif-norms"
BLOCK = 1024
"""Windows of a block whose vectors need not be held."""


def training_run(methods: str, settings: MethodSettings, checkpoint: Checkpoint) -> Trajectory:
    """The checkpoints that the methods look at.

    Raises:
        HaiftraceError: none are named, or they cannot be used.
    """
    if settings.checkpoints is None:
        raise UsageError(
            f"The checkpoints of the training run are needed for {methods}.",
            "Give --checkpoints with the Trainer's output directory, or PATH:LR,PATH:LR.",
        )
    return Trajectory.read(settings.checkpoints, checkpoint)


def attif_settings(trajectory: Trajectory, rule: Rule) -> dict[str, Any]:
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
        """Adds a checkpoint's part of the vector."""
        if self.vector is None:
            self.vector = {name: part * factor for name, part in vector.items()}
            return
        for name, part in vector.items():
            self.vector[name].add_(part, alpha=factor)


class TrajectoryScorer:
    """Scores windows by methods over a training run.

    Args:
        memory: bytes that a block's vectors may take.
        stored: False to compute even the norms that the index holds.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        trajectory: Trajectory,
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
        question: Question,
        best: Mapping[str, Best],
        progress: Progress,
    ) -> None:
        """Scores every window by every method; see `score_by_gradient`."""
        adjusted = any(method.adjusted for method in methods)
        means = any(not method.adjusted for method in methods)
        for block in self._blocks(rows, adjusted):
            sums = self._gather(block, question, adjusted, means, progress)
            for one in sums.values():
                for method in methods:
                    best[method.name].add(self._scored(one, method, question))

    def norms(self, rows: Iterable[int], progress: Progress) -> Iterator[WindowSums]:
        """What `attif-norms` keeps of each window, in the order of rows."""
        for block in self._blocks(rows, True):
            yield from self._gather(block, None, True, False, progress).values()

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
        question: Question | None,
        adjusted: bool,
        means: bool,
        progress: Progress,
    ) -> dict[int, WindowSums]:
        sums: dict[int, WindowSums] = {}
        steps = self._trajectory.steps
        # Of the traced checkpoint: formed before others are visited.
        last = question.direction if adjusted and question is not None else None
        with self._trajectory.visiting() as visits:
            for number, step in enumerate(visits):
                there = None
                if means and question is not None:
                    there = Question(question.batch, lambda: self._engine).direction
                for windows in window_batches(self._index, block, self._engine.device):
                    here = [sums.setdefault(w.row, WindowSums(w)) for w in windows]
                    batch = batch_of(windows, self._engine.device)
                    if adjusted:
                        self._token_norms(here, batch, number)
                        self._add_vectors(here, batch, step.learning_rate)
                    if question is not None:
                        self._add_dots(here, batch, step.learning_rate, there, last)
                    share = len(windows) / len(steps)
                    progress.advance(share, tokens=token_count(windows))
        for one in sums.values():
            self._take_norm(one)
        return {row: sums[row] for row in block}

    def _token_norms(self, here: Sequence[WindowSums], batch: Batch, number: int) -> None:
        if self.has_norms:
            for one in here:
                values = self._index.supplement_values(SUPPLEMENT, one.window.row)
                one.token_norms.append(np.asarray(values[f"token_norms_{number}"]))
                one.adjusted_norm = float(values["adjusted_norm"])
            return
        if self._is_indexed(number) and self._index.supplement(HAIF_NORMS) is not None:
            for one in here:
                values = self._index.supplement_values(HAIF_NORMS, one.window.row)
                one.token_norms.append(np.asarray(values[TOKENS]))
            return
        norms_BT = self._engine.token_gradients(batch).norms_BT.cpu().numpy()
        for one, norms_T in zip(here, norms_BT, strict=True):
            labels = np.asarray(one.window.labels)
            one.token_norms.append(norms_T[: len(labels)][labels])

    def _is_indexed(self, number: int) -> bool:
        fingerprint = self._trajectory.steps[number].fingerprint
        return bool(fingerprint == self._index.fingerprints["weights"])

    def _weights(self, one: WindowSums) -> np.ndarray:
        """[T] W of the latest checkpoint's norms, 0 where the token is no label."""
        labels = np.asarray(one.window.labels)
        weights = np.zeros(len(labels))
        weights[labels] = self._rule.weights(one.token_norms[-1])
        return weights

    def _add_vectors(self, here: Sequence[WindowSums], batch: Batch, rate: float) -> None:
        import torch

        if self.has_norms or self._rule.combine != "sum":
            return
        for one, row in zip(here, batch.rows(), strict=True):
            weights_BT = torch.from_numpy(self._weights(one)).unsqueeze(0).to(self._engine.device)
            one.add(self._engine.gradient(row, weights_BT), rate)

    def _add_dots(
        self,
        here: Sequence[WindowSums],
        batch: Batch,
        rate: float,
        there: Direction | None,
        last: Direction | None,
    ) -> None:
        directions = [direction for direction in (there, last) if direction is not None]
        _, dots_QBT = self._engine.directional(batch, [d.unit for d in directions])
        dots = iter(dots_QBT.cpu().numpy())
        if there is not None:
            for one, dots_T in zip(here, next(dots), strict=True):
                labels = np.asarray(one.window.labels)
                scale = rate * there.norm / max(1, int(labels.sum()))
                one.mean += labels * dots_T[: len(labels)] * scale
        if last is not None:
            for one, dots_T in zip(here, next(dots), strict=True):
                weights = self._weights(one)
                one.adjusted += weights * dots_T[: len(weights)] * (rate * last.norm)

    @staticmethod
    def _take_norm(one: WindowSums) -> None:
        if one.vector is not None:
            squares = (float(part.double().pow(2).sum()) for part in one.vector.values())
            one.adjusted_norm = sum(squares) ** 0.5
            one.vector = None

    def _scored(self, one: WindowSums, method: TrajectoryMethod, question: Question) -> Scored:
        if not method.adjusted:
            return Scored(one.window, float(one.mean.sum()), None, one.mean)
        evidence = self._rule.combined(one.adjusted, np.asarray(one.window.labels))
        if self._rule.combine == "sum":
            evidence = evidence * inverse(one.adjusted_norm)
        score = float(evidence.sum())
        cosine = bounded(score * inverse(question.direction.norm))
        return Scored(one.window, score, cosine, evidence)
