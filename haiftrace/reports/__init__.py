"""Reports of findings: in the terminal for a person, in files for programs."""

from haiftrace.reports.outputs import check_outputs, write_report
from haiftrace.reports.terminal.render import render_terminal
from haiftrace.reports.word_evidence import WordEvidence, merge_words

__all__ = ["WordEvidence", "check_outputs", "merge_words", "render_terminal", "write_report"]
