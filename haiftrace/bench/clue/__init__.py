"""CLUE: parts of training samples traced to their sample (Figure 2)."""
