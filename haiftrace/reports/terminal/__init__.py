"""A report in the terminal."""
