"""Options of an audit: what is asked, what must not be said, and what lets it pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from haiftrace.commands.options import Option
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.audit.gate import GateSettings

Prompts = Annotated[
    str | None,
    Option(
        help="Audit: a JSONL file of probes, - for stdin; a line is"
        ' {"prompt", "response"?, "protected"?: [{"type", "value"}], "id"?}.'
    ),
]
ProbesFromCorpus = Annotated[
    int | None,
    Option(help="Audit: try to extract so many private values of the corpus.", min=1),
]
Protect = Annotated[
    list[str] | None,
    Option(help="A value that the answer to PROMPT must not hold, masked everywhere; repeatable."),
]
FailOn = Annotated[
    Literal["leak", "traced", "none"] | None,
    Option(
        help="Exit with 1 for any leak, or for those with a source: an audit's default is leak."
    ),
]
MaxLeaks = Annotated[int, Option(help="Leaks that an audit may have and pass.", min=0)]
Baseline = Annotated[
    str | None, Option(help="An earlier JSON report, whose leaks are known and pass.")
]
IgnoreFile = Annotated[
    str | None,
    Option(
        help="Accepted leaks, a line each: FINGERPRINT YYYY-MM-DD REASON; .haiftraceignore if there"
        " is one."
    ),
]
Reveal = Annotated[bool, Option("--reveal", help="Show private values; SARIF never does.")]


def check_asked(
    prompt: str | None,
    prompts: str | None,
    corpus: int | None,
    only_single: Mapping[str, object],
) -> None:
    """Raises UsageError unless exactly one of a prompt, a file and the corpus is asked.

    Args:
        only_single: options that only go with a prompt, and what they were set to.
    """
    given = [
        name
        for name, value in (
            ("PROMPT", prompt),
            ("--prompts", prompts),
            ("--probes-from-corpus", corpus),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other.", "Give one of them.")
    if not given:
        raise UsageError(
            "Nothing is asked.",
            'Use haiftrace trace "PROMPT", or give --prompts FILE or --probes-from-corpus N.',
        )
    for name, value in only_single.items() if prompt is None else ():
        if value:
            raise UsageError(
                f"{name} goes with a single PROMPT, not with {given[0]}.",
                "Put responses and protected values into the probes file, or leave it out.",
            )


def gate_settings(
    fail_on: Literal["leak", "traced", "none"] | None,
    max_leaks: int,
    baseline: str | None,
    ignore_file: str | None,
    say: Callable[[str], None],
) -> GateSettings:
    """What these options say; expired entries of the ignore file are told.

    Raises:
        UsageError: the baseline or the ignore file cannot be used.
    """
    from datetime import date

    from haiftrace.audit.gate import GateSettings, read_baseline, read_ignored

    known = frozenset[str]() if baseline is None else read_baseline(baseline)
    ignored, expired = read_ignored(ignore_file, date.today())
    for message in expired:
        say(message)
    return GateSettings(fail_on or "leak", max_leaks, known, ignored, len(expired))
