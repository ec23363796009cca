"""Inverse curvature: EK-FAC and LiSSA."""
