"""Exact scores of an index's windows, by every family of methods."""
