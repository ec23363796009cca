"""Options that tell methods what to do, and the settings that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from haiftrace.commands.options import Option

if TYPE_CHECKING:
    from haiftrace.methods.settings import MethodSettings

Adjust = Annotated[
    str,
    Option(
        help="Weight W(n) of a token gradient of norm n: power:P is n^-P, soft:C is 1/(n + c), c"
        " the corpus' C-quantile. For haif, haif-t, attif, ahif."
    ),
]
Combine = Annotated[
    Literal["sum", "positive", "max"],
    Option(help="How token evidence is combined: sum is the paper's. For the same methods."),
]
Damping = Annotated[
    str | None,
    Option(
        help="Added to the curvature: a number, or like 0.1x a multiple of the mean eigenvalue of"
        " each matrix (ek-fac, relatif, ahif; 0.1x) or of the largest (lissa; 0.01x)."
    ),
]
Fisher = Annotated[
    Literal["true", "empirical"],
    Option(help="Labels of EK-FAC's gradients: drawn from the model, or the records' own."),
]
FactorRecords = Annotated[
    int | None,
    Option(help="Fit EK-FAC's factors to a sample of so many record windows; all.", min=1),
]
Depth = Annotated[int, Option(help="Steps of LiSSA's series.", min=1)]
Repeats = Annotated[int, Option(help="Series of LiSSA that are averaged.", min=1)]
Scale = Annotated[
    str, Option(help="What LiSSA divides the curvature by: auto (by power iteration), or a number.")
]
Curvature = Annotated[
    Literal["gauss-newton", "hessian"],
    Option(help="LiSSA's curvature; a trained model's Hessian may diverge, which is reported."),
]
Checkpoints = Annotated[
    str | None,
    Option(
        help="For tracincp and attif: the Hugging Face Trainer's output directory, or"
        " PATH:LR,PATH:LR."
    ),
]


def method_settings(
    adjust: str = "power:1",
    combine: Literal["sum", "positive", "max"] = "sum",
    damping: str | None = None,
    fisher: Literal["true", "empirical"] = "true",
    factor_records: int | None = None,
    depth: int | None = None,
    repeats: int | None = None,
    scale: str = "auto",
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton",
    checkpoints: str | None = None,
    seed: int = 0,
) -> MethodSettings:
    """The settings that these options say.

    Raises:
        UsageError: one of them is no such value.
    """
    import math

    from haiftrace.errors import UsageError
    from haiftrace.methods import Adjustment
    from haiftrace.methods.settings import (
        DampingSetting,
        FactorSettings,
        MethodSettings,
        SeriesSettings,
    )

    factors, series = FactorSettings(), SeriesSettings()
    damped = None if damping is None else DampingSetting.parse(damping)
    divisor = None
    if scale != "auto":
        try:
            divisor = float(scale)
        except ValueError:
            divisor = math.nan
        if not 0 < divisor < math.inf:
            raise UsageError(
                f"'{scale}' is no --scale.", "Use auto, or a number above the largest eigenvalue."
            )
    return MethodSettings(
        adjustment=Adjustment.parse(adjust),
        combine=combine,
        factors=FactorSettings(fisher, factor_records, damped or factors.damping, seed),
        series=SeriesSettings(
            depth=depth or series.depth,
            repeats=repeats or series.repeats,
            scale=divisor,
            damping=damped or series.damping,
            curvature=curvature,
            batch=series.batch,
            seed=seed,
        ),
        checkpoints=checkpoints,
    )
