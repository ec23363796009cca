"""Calibrated evidence: what chance alone reaches in this corpus, and what a first place means."""
