"""Exact scores by the layerwise rule, their evidence, and the estimates that propose."""
