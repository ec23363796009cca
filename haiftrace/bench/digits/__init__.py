"""Influence functions against gradient norm, by logistic regression on digits (Figure 1)."""
