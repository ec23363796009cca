"""A small checkpoint and corpus of virtual subjects, and what made them."""
