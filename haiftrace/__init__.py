"""haiftrace: which training record put this answer into the model?"""

__version__ = "0.1.0"
