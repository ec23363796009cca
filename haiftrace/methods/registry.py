"""The influence functions by name. A further one is a further entry."""

from __future__ import annotations

from collections.abc import Sequence

from haiftrace.errors import UsageError
from haiftrace.methods.adjustment import HAIF
from haiftrace.methods.families import (
    EK_FAC,
    LISSA,
    GradientMethod,
    LayerwiseMethod,
    LexicalMethod,
    Method,
    Rule,
    TrajectoryMethod,
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        LayerwiseMethod(
            "layerwise",
            "Σ_q Σ_ℓ max(0, z)², z the z-score of direct value gradients' pooled cosines with query"
            " token q in layer ℓ, inputs whitened",
        ),
        GradientMethod(
            "haif",
            "v · A(Σ_j A(g_kj)), A(x) = x/‖x‖ (Liu and Yang 2024, eq. 23)",
            adjusted=True,
            outer=True,
        ),
        GradientMethod(
            "haif-t",
            "v · Σ_j A(g_kj) (Liu and Yang 2024, eq. 23 without the outer A)",
            adjusted=True,
        ),
        GradientMethod(
            "gradient-product",
            "v · (1/m) Σ_j g_kj (an influence function with the identity for the Hessian)",
        ),
        GradientMethod(
            "gradient-cosine",
            "the cosine of v and Σ_j g_kj (relative influence with the identity Hessian)",
            outer=True,
            over_query_norm=True,
        ),
        TrajectoryMethod(
            "tracincp",
            "Σ_t η_t v_t · (1/m) Σ_j g_kj(θ_t) over checkpoints (Pruthi et al. 2020)",
        ),
        GradientMethod(
            "lissa",
            "(H + λ)⁻¹v · (1/m) Σ_j g_kj, a Neumann series (Agarwal et al. 2017)",
            preconditioner=LISSA,
        ),
        GradientMethod(
            "ek-fac",
            "(H + λ)⁻¹v · (1/m) Σ_j g_kj, H by eigenvalue-corrected Kronecker factors (George et"
            " al. 2018, Grosse et al. 2023)",
            preconditioner=EK_FAC,
        ),
        GradientMethod(
            "relatif",
            "EK-FAC's score over ‖(H + λ)⁻¹∇L(z_k)‖ (θ-RelatIF, Barshan et al. 2020)",
            preconditioner=EK_FAC,
            metric=EK_FAC,
            outer=True,
        ),
        TrajectoryMethod(
            "attif",
            "v · A(Σ_j Σ_t η_t A(g_kj(θ_t))) over checkpoints (Liu and Yang 2024, eq. 21)",
            adjusted=True,
            last_query=True,
        ),
        GradientMethod(
            "ahif",
            "v · A(Σ_j A((H + λ)⁻¹g_kj)), H by EK-FAC (Liu and Yang 2024, eq. 22)",
            preconditioner=EK_FAC,
            metric=EK_FAC,
            adjusted=True,
            outer=True,
        ),
        LexicalMethod(
            "bm25", "search for the words of prompt and response (BM25)", with_prompt=True
        ),
        LexicalMethod("bm25-answer", "search for the words of the response alone (BM25)"),
    )
}
DEFAULT_METHOD = "layerwise"


def find_methods(names: str) -> tuple[Method, ...]:
    """The methods of a list of names with commas between, each once, in that order.

    Raises:
        UsageError: there is no such method, or none is named.
    """
    methods: dict[str, Method] = {}
    for name in (text.strip() for text in names.split(",")):
        if name not in METHODS:
            raise UsageError(f"There is no method '{name}'.", f"Choose of {', '.join(METHODS)}.")
        methods[name] = METHODS[name]
    return tuple(methods.values())


def check_rule(methods: Sequence[Method], rule: Rule) -> None:
    """Refuses a rule that none of the methods follows, or that one of them cannot.

    Raises:
        UsageError: why.
    """
    adjusted = [method for method in methods if method.adjusted]
    if rule.combine == "sum" and rule.adjustment == HAIF:
        return
    option = "--adjust" if rule.combine == "sum" else "--combine"
    if not adjusted:
        names = ", ".join(method.name for method in methods)
        family = ", ".join(name for name, method in METHODS.items() if method.adjusted)
        raise UsageError(
            f"{option} does nothing for {names}: these do not adjust token gradients.",
            f"It is for {family}.",
        )
    if rule.adjustment.quantile is not None:
        for method in adjusted:
            if not method.plain_norms:
                raise UsageError(
                    f"--adjust soft:C takes a quantile of the corpus' gradient norms, which are"
                    f" not the norms that {method.name} adjusts by.",
                    "Use --adjust power:P with it, or haif or haif-t.",
                )
