"""How often the search's candidates hold the record that exact scores put first.

An index holds a vector for each label token, from which the layerwise rule is estimated; the more
dimensions it has, the better the estimate. It proposes the candidates of every method.

Shape letters: Q questions, N windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haiftrace.bench.harness.statistics import Proportion
from haiftrace.scoring.candidates import SearchBudget

if TYPE_CHECKING:
    from haiftrace.engine import Batch
    from haiftrace.tracing.tracer import Tracer

DIMENSIONS = (1024, 2048)
"""Of a token's vector, a bit each."""

CANDIDATES = (16, 64, 256)


def shortlist_recall(
    tracer: Tracer, queries: Sequence[Batch], exact: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Rows of results.json: one for each method and number of candidates.

    Args:
        tracer: over an index with token vectors.
        exact: [Q, N] every window's exact scores, by the method's name.
    """
    table = []
    for count in CANDIDATES:
        proposed = tracer.session.model.candidates.of(queries, SearchBudget(candidates=count))
        for name, exact_QN in exact.items():
            firsts = exact_QN.argmax(1)
            held = sum(int(first) in rows for first, rows in zip(firsts, proposed, strict=True))
            keys = {
                "method": name,
                "dimension": tracer.index.layout.token_vectors,
                "candidates": count,
                "records": exact_QN.shape[1],
            }
            table.append({**keys, **Proportion(held, len(proposed)).row()})
    return table
