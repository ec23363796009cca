"""Leaks of personal data traced to their records (Tables 2 to 4)."""
