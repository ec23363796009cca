"""Token norms over the scope of late interaction, which the index's rows or a supplement keep."""

from __future__ import annotations

import numpy as np

from haiftrace.scoring.norms import at_tokens
from haiftrace.store import Index, StoredWindow

SUPPLEMENT = "late-norms"
"""The supplement with token norms over a scope that the index's rows do not have."""


def scope_settings(scope: str) -> dict[str, str]:
    """What the supplement's norms depend on."""
    return {"scope": scope}


def in_rows(index: Index, scope: str) -> bool:
    """Whether the index's own rows hold token norms over a scope."""
    return scope in (index.settings["scope"], *index.layout.norm_scopes)


def has_norms(index: Index, scope: str) -> bool:
    """Whether the index holds token norms over a scope."""
    entry = index.supplement(SUPPLEMENT)
    return in_rows(index, scope) or (entry is not None and entry.settings == scope_settings(scope))


def stored_norms(index: Index, window: StoredWindow, scope: str) -> np.ndarray:
    """[T] ‖g_kj‖ over a scope that the index `has_norms` of."""
    if scope == index.settings["scope"]:
        return window.token_grad_norm
    if scope in window.scope_norms:
        return window.scope_norms[scope]
    kept = index.supplement_values(SUPPLEMENT, window.row)["token_norms"]
    return np.asarray(at_tokens(kept, window))
