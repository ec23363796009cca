"""Use cases that make an index, and add to one."""
