"""Invented people, the records on them, and the questions."""
