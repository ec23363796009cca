"""Which windows are scored exactly: what the index's vectors propose for a question.

The same vectors estimate every window's score, which is the background of a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.device import SMALL_MODEL
from haiftrace.methods import GradientMethod, LateMethod, Method, Rule
from haiftrace.methods.settings import REFERENCE, LateSettings, MethodSettings
from haiftrace.scoring.directions import Question
from haiftrace.scoring.token_shortlist import TokenShortlist, why_without
from haiftrace.store import Index

if TYPE_CHECKING:
    from haiftrace.engine import GradientEngine

CANDIDATES = 256
"""Windows that are scored exactly where nothing else is said."""
RESCORE, RESCORE_ON_CPU, RESCORE_BY_TOKEN = 256, 32, 8
"""Those that late interaction scores exactly; of a model that is not small on a CPU; and there by
methods whose every token asks, which cost as many derivatives."""
EXACT_REFERENCE = {"cpu": 2e10, "cuda": 2e12}
"""Parameters times label tokens of a reference that is scored exactly for every question: some
seconds for each."""


@dataclass(frozen=True)
class Room:
    """How many windows are scored exactly.

    Attributes:
        exact: all of them.
        candidates, rescore: see `TraceSettings`.
    """

    exact: bool
    candidates: int | None
    rescore: int | None


class Candidates:
    """Proposals from one index.

    Args:
        index: the opened index.
        engine: over the index's own scope.
        engine_over: gives the engine over another scope.
        parameters: of the model.
    """

    def __init__(
        self,
        index: Index,
        engine: GradientEngine,
        engine_over: Callable[[str], GradientEngine],
        parameters: int,
    ) -> None:
        self._index = index
        self._engine = engine
        self._engine_over = engine_over
        dear = engine.device.type == "cpu" and parameters >= SMALL_MODEL
        self._rescore = RESCORE_ON_CPU if dear else RESCORE
        self._rescore_by_token = RESCORE_BY_TOKEN if dear else RESCORE
        totals = index.manifest.totals
        share = min(1.0, REFERENCE / max(1, totals.windows))
        work = parameters * totals.label_tokens * share
        self._reference_takes_long = work > EXACT_REFERENCE[engine.device.type]
        self._token_shortlists: dict[LateSettings, TokenShortlist] = {}

    def of(
        self,
        question: Question,
        methods: Sequence[GradientMethod],
        settings: MethodSettings,
        room: Room,
        notes: dict[str, list[str]],
    ) -> Collection[int]:
        """Rows to be scored exactly: what any of the methods needs."""
        everything = range(len(self._index))
        count = room.candidates or CANDIDATES
        if room.exact or count >= len(everything):
            return everything
        unfit = [m for m in methods if not has_vector(m, settings)]
        for method in unfit:
            notes[method.name].append(
                f"the index holds no vector that fits {method.name}: every record was scored"
            )
        if unfit:
            return everything
        vector = self.projected(question)
        rows: set[int] = set()
        for method in methods:
            rows |= set(self._proposed(vector, str(method.shortlist_column), count))
        return rows

    def late(
        self,
        question: Question,
        method: LateMethod,
        settings: MethodSettings,
        room: Room,
        notes: list[str],
    ) -> Collection[int]:
        """Rows that late interaction scores exactly.

        Args:
            question: as late interaction asks it, names and all.
            notes: receives what the user should know.
        """
        scope = settings.late.scope
        told = room.rescore or room.candidates
        count = told or (self._rescore_by_token if method.by_token else self._rescore)
        tokens = self.by_tokens(settings)
        if tokens is None and told is None and not (method.by_token or method.along_run):
            # One vector a record proposes worse, and one direction costs little.
            count = max(count, CANDIDATES)
        if room.exact or count >= len(self._index):
            return range(len(self._index))
        if tokens is not None:
            return tokens.proposed(method, question, count)
        notes.append(
            f"{why_without(self._index, scope)}: candidates were proposed by one vector a record,"
            f" which finds fewer of those that {method.name} would put first (--exact, or more with"
            " --rescore)"
        )
        # Of a copy: late interaction has no further use of a direction over the index's scope.
        return self._proposed(self.projected(replace(question)), "", count)

    def by_tokens(self, settings: MethodSettings) -> TokenShortlist | None:
        """Estimates of late interaction under these settings; None where no vectors fit them."""
        late = settings.late
        if why_without(self._index, late.scope) is not None:
            return None
        if late not in self._token_shortlists:
            made = TokenShortlist(self._index, self._engine_over(late.scope), late)
            self._token_shortlists[late] = made
        return self._token_shortlists[late]

    def reference(self, settings: MethodSettings) -> TokenShortlist | None:
        """Whose estimates z-scores are over; None for the exact strengths of a sample."""
        told = settings.late.reference is not None
        return self.by_tokens(settings) if self._reference_takes_long and not told else None

    def projected(self, question: Question) -> np.ndarray:
        """[D] the projection of the unit vector v/‖v‖, as the index's vectors are projected."""
        projector = self._engine.projector(
            self._index.layout.projection_dim, self._index.settings["seed"]
        )
        # A unit vector keeps tiny gradients within float32.
        projected: np.ndarray = (
            self._engine.project(question.direction.unit, projector).float().cpu().numpy()
        )
        return projected

    def has_background(self, method: Method, settings: MethodSettings) -> bool:
        """Whether the index's vectors rank every window for a method."""
        if isinstance(method, LateMethod):
            return not method.along_run and why_without(self._index, settings.late.scope) is None
        return isinstance(method, GradientMethod) and has_vector(method, settings)

    def background(
        self, question: Question, method: Method, settings: MethodSettings
    ) -> np.ndarray | None:
        """[N] projected scores of every window over ‖v‖; None where no vector fits the method."""
        (found,) = self.backgrounds([question], method, settings)
        return found

    def backgrounds(
        self, questions: Sequence[Question], method: Method, settings: MethodSettings
    ) -> list[np.ndarray] | list[None]:
        """The same of several questions."""
        if not self.has_background(method, settings):
            return [None for _ in questions]
        if isinstance(method, LateMethod):
            tokens = self.by_tokens(settings)
            assert tokens is not None
            return list(tokens.scores_of_many(method, questions))
        assert isinstance(method, GradientMethod)
        column = str(method.shortlist_column)
        scale = self._index.column(column) if column else 1.0
        sides = (self.projected(question) for question in questions)
        return [
            self._index.vectors_inner_products(side).astype(np.float64) * scale for side in sides
        ]

    def _proposed(self, vector: np.ndarray, column: str, count: int) -> list[int]:
        if not column:
            proposed, _ = self._index.shortlist(vector, count)
        else:
            products = self._index.vectors_inner_products(vector) * self._index.column(column)
            proposed = np.argsort(-products, kind="stable")[:count]
        return [int(row) for row in proposed]


def has_vector(method: GradientMethod, settings: MethodSettings) -> bool:
    """Whether the index's vectors rank for this method: they are HAIF's sums of unit gradients."""
    plain = settings.combine == "sum" and settings.adjustment == Rule().adjustment
    return method.shortlist_column is not None and (plain or not method.adjusted)
