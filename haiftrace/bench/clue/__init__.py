"""CLUE: excerpts of training samples traced to their sample (Figure 2)."""
