"""haiftrace: which training record put this answer into the model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haiftrace.api import CorpusIndex as Index
    from haiftrace.api import audit, trace
    from haiftrace.auditing.trace_report import TraceReport

__version__ = "0.1.0"

__all__ = ["Index", "TraceReport", "__version__", "audit", "trace"]

_NAMES = {
    "Index": "CorpusIndex",
    "TraceReport": "TraceReport",
    "audit": "audit",
    "trace": "trace",
}


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is used: the command line starts without it."""
    if name not in _NAMES:
        raise AttributeError(f"module 'haiftrace' has no attribute '{name}'")
    from haiftrace import api

    return getattr(api, _NAMES[name])
