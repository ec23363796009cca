"""The errors a user can meet: what is wrong, and what to do next, never a traceback."""

from __future__ import annotations

EXIT_CLEAN = 0
EXIT_LEAK = 1
EXIT_ERROR = 2
EXIT_INCONCLUSIVE = 3
EXIT_INTERRUPTED = 130


class HaiftraceError(Exception):
    """An expected failure, shown to the user as one paragraph and a hint.

    Args:
        message: what is wrong and why, one paragraph, without any private value of the corpus.
        hint: the next thing to do, preferably a command.
    """

    exit_code = EXIT_ERROR

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HaiftraceError):
    """Options that do not make sense together."""


class NoAnswerError(UsageError):
    """A model that answered with nothing."""


class CorpusError(HaiftraceError):
    """A corpus that cannot be read, or a record in it that cannot be used."""


class CheckpointError(HaiftraceError):
    """A model directory that cannot be loaded, or weights that cannot be used."""


class IndexStoreError(HaiftraceError):
    """An index directory that is missing, broken or in the way."""


class DamagedIndexError(IndexStoreError):
    """An index whose files are not those that were written (fail closed)."""

    exit_code = EXIT_INCONCLUSIVE


class WorkerError(HaiftraceError):
    """Worker processes that died, again and again."""


class OutputError(HaiftraceError):
    """A report that cannot be written."""


class StaleIndexError(HaiftraceError):
    """An index that was made from another checkpoint, tokenizer or corpus (fail closed)."""

    exit_code = EXIT_INCONCLUSIVE
