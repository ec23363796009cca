"""What is traced, and with what: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from haiftrace.calibration.null_distribution import ALPHA
from haiftrace.errors import UsageError
from haiftrace.methods import DEFAULT_METHOD
from haiftrace.methods.settings import MethodSettings
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.query.query import Query
from haiftrace.scoring.candidates import CANDIDATES, SearchBudget


@dataclass(frozen=True)
class TraceSettings:
    """What to trace with.

    Attributes:
        method: names in the registry, with commas between.
        candidates: windows that the search proposes for exact scoring.
        exact: score every window instead.
        top: records in the result.
        prompting: how prompt and response become one string.
        methods: the settings of the methods.
        alpha: false-accusation rate of the verdicts.
    """

    method: str = DEFAULT_METHOD
    candidates: int = CANDIDATES
    exact: bool = False
    top: int = 10
    prompting: PromptSettings = field(default_factory=PromptSettings)
    methods: MethodSettings = field(default_factory=MethodSettings)
    alpha: float = ALPHA

    @property
    def budget(self) -> SearchBudget:
        """How many windows are scored exactly."""
        return SearchBudget(self.exact, self.candidates)

    def check(self) -> None:
        """Raises UsageError for a number out of its range."""
        if self.candidates < 1 or self.top < 1:
            raise UsageError("--candidates and --top take a number of at least 1.")
        if not 0 < self.alpha < 1:
            raise UsageError("--alpha takes a number between 0 and 1.", "Use --alpha 0.01.")


@dataclass(frozen=True)
class Leak:
    """A prompt and, where it is known, the response to be traced and the span of it.

    `query` is all of that as tokens, where these are known already.
    """

    prompt: str
    response: str | None = None
    span: str | None = None
    query: Query | None = None
