"""The options of methods, and the settings that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from haiftrace.commands.options import Option
from haiftrace.commands.panels import ASKING, EXPERT, METHODS

if TYPE_CHECKING:
    from haiftrace.methods.settings import MethodSettings

Seed = Annotated[
    int,
    Option(
        help="Seed of what --sample, --probes-from-corpus, EK-FAC and LiSSA draw.",
        rich_help_panel=ASKING,
    ),
]


@dataclass(frozen=True)
class KeptMethodOptions:
    """Options of methods that what an index keeps for them depends on."""

    PANEL: ClassVar[str] = EXPERT

    adjust: Annotated[
        str,
        Option(
            help="Weight W(n) of a token gradient of norm n: power:P is n^-P, soft:C is 1/(n + c),"
            " c the corpus' C-quantile. For haif, haif-t, attif, ahif.",
            rich_help_panel=METHODS,
        ),
    ] = "power:1"
    damping: Annotated[
        str | None,
        Option(
            help="Added to the curvature: a number, or like 0.1x a multiple of the mean eigenvalue"
            " of each matrix (ek-fac, relatif, ahif) or of the largest (lissa).",
            show_default="0.1x; 0.01x for lissa",
        ),
    ] = None
    fisher: Annotated[
        Literal["true", "empirical"],
        Option(help="Labels of EK-FAC's gradients: drawn from the model, or the records' own."),
    ] = "true"
    factor_records: Annotated[
        int | None,
        Option(
            help="Fit EK-FAC's factors to a sample of so many record windows.",
            min=1,
            show_default="all",
        ),
    ] = None
    checkpoints: Annotated[
        str | None,
        Option(
            help="For tracincp and attif: the Hugging Face Trainer's output directory, or"
            " PATH:LR,PATH:LR.",
            rich_help_panel=METHODS,
        ),
    ] = None

    def settings(self, seed: int) -> MethodSettings:
        """The settings of methods, those that an index does not depend on by default.

        Raises:
            UsageError: one of the options is no such value.
        """
        from haiftrace.methods import Adjustment
        from haiftrace.methods.settings import DampingSetting, FactorSettings, MethodSettings

        default = FactorSettings()
        damping = default.damping if self.damping is None else DampingSetting.parse(self.damping)
        return MethodSettings(
            adjustment=Adjustment.parse(self.adjust),
            factors=FactorSettings(
                fisher=self.fisher, records=self.factor_records, damping=damping, seed=seed
            ),
            checkpoints=self.checkpoints,
        )


@dataclass(frozen=True)
class MethodOptions(KeptMethodOptions):
    """All options of methods."""

    combine: Annotated[
        Literal["sum", "positive", "max"],
        Option(
            help="How token evidence is combined: sum is the paper's. For the same methods.",
            rich_help_panel=METHODS,
        ),
    ] = "sum"
    depth: Annotated[int, Option(help="Steps of LiSSA's series.", min=1)] = 500
    repeats: Annotated[int, Option(help="Series of LiSSA that are averaged.", min=1)] = 1
    scale: Annotated[
        str,
        Option(help="What LiSSA divides the curvature by: auto (by power iteration), or a number."),
    ] = "auto"
    curvature: Annotated[
        Literal["gauss-newton", "hessian"],
        Option(help="LiSSA's curvature; a trained model's Hessian may diverge, which is reported."),
    ] = "gauss-newton"
    seed: Seed = 0

    def all_settings(self) -> MethodSettings:
        """The settings of methods.

        Raises:
            UsageError: one of the options is no such value.
        """
        from dataclasses import replace

        from haiftrace.methods.settings import DampingSetting, SeriesSettings

        kept = self.settings(self.seed)
        default = SeriesSettings()
        series = SeriesSettings(
            depth=self.depth,
            repeats=self.repeats,
            scale=self._divisor(),
            damping=default.damping if self.damping is None else DampingSetting.parse(self.damping),
            curvature=self.curvature,
            seed=self.seed,
        )
        return replace(kept, combine=self.combine, series=series)

    def _divisor(self) -> float | None:
        """`--scale` as a number; None to find it."""
        import math

        from haiftrace.errors import UsageError

        if self.scale == "auto":
            return None
        try:
            divisor = float(self.scale)
        except ValueError:
            divisor = math.nan
        if not 0 < divisor < math.inf:
            raise UsageError(
                f"'{self.scale}' is no --scale.",
                "Use auto, or a number above the largest eigenvalue.",
            )
        return divisor
