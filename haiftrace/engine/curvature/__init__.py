"""Inverse-Hessian-vector products: EK-FAC, LiSSA, and the curvature products that they need."""
