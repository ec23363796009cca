"""The use case: query, index and methods to findings."""
