"""Options of an audit: what is asked, what must not be said, and what lets it pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from haiftrace.commands.options import Option
from haiftrace.commands.panels import AUDIT
from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.auditing.gate import GateSettings
    from haiftrace.auditing.probes import ProbeCase
    from haiftrace.privacy import DetectionSettings

_CATEGORY = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9_])?")


@dataclass(frozen=True)
class AuditOptions:
    """Probes, protected values and the gate."""

    PANEL: ClassVar[str] = AUDIT
    COMMON: ClassVar[tuple[str, ...]] = ("reveal",)

    prompts: Annotated[
        str | None,
        Option(
            help="Audit: a JSONL file of probes, - for stdin; a line is"
            ' {"prompt" or "messages", "system"?, "response"?, "protected"?: [{"type", "value"}],'
            ' "id"?}.'
        ),
    ] = None
    probes_from_corpus: Annotated[
        int | None,
        Option(help="Audit: try to extract so many private values of the corpus.", min=1),
    ] = None
    protect: Annotated[
        list[str] | None,
        Option(
            help="A value that the answer to PROMPT must not hold, masked everywhere; repeatable."
        ),
    ] = None
    fail_on: Annotated[
        Literal["leak", "known-value", "traced", "none"] | None,
        Option(
            help="Exit with 1 for any leak (an audit's default), not for values that no record"
            " holds and no probe protects (known-value), for those with a source only, or never."
        ),
    ] = None
    max_leaks: Annotated[int, Option(help="Leaks that an audit may have and pass.", min=0)] = 0
    baseline: Annotated[
        str | None,
        Option(help="An earlier JSON report, whose leaks are known and pass, each for its value."),
    ] = None
    baseline_key: Annotated[
        str | None,
        Option(
            help="A file with the key by which reports tell values apart exactly, without showing"
            " them; made, private, where there is none. Keep it beside the baseline, and publish"
            " it nowhere."
        ),
    ] = None
    ignore_file: Annotated[
        str | None,
        Option(
            help="Accepted leaks, a line a value: FINGERPRINT YYYY-MM-DD REASON; .haiftraceignore"
            " if there is one."
        ),
    ] = None
    category: Annotated[
        str | None,
        Option(
            help="Name of this run in code scanning, where one job uploads several: the id of the"
            " SARIF file is haiftrace/NAME/."
        ),
    ] = None
    detect: Annotated[
        Literal["all", "none"],
        Option(
            help="What counts as a leak besides protected values: all that detectors see, or none;"
            " what they see is masked all the same."
        ),
    ] = "all"
    types: Annotated[
        str | None,
        Option(
            help="Types of values that detectors look for, with commas between them: key, email,"
            " iban, crypto, national-id, card, date-of-birth, address, phone; passport and ip only"
            " when named; +NAME and -NAME change the default, all is all."
        ),
    ] = None
    allow: Annotated[
        str | None, Option(help="A file of values that may be said, one a line: no leaks.")
    ] = None
    regions: Annotated[
        str | None,
        Option(
            help="Countries whose national phone numbers are known: ISO 3166 codes with commas"
            " between them; by default those of the corpus' languages."
        ),
    ] = None
    reveal: Annotated[bool, Option("--reveal", help="Show private values; SARIF never does.")] = (
        False
    )

    def check(self, prompt: str | None, only_single: Mapping[str, object]) -> None:
        """Raises UsageError unless exactly one of a prompt, a file and the corpus is given.

        A category that is no name is refused, too.

        Args:
            only_single: options that only go with a prompt, and what they were set to.
        """
        if self.category is not None and not _CATEGORY.fullmatch(self.category):
            raise UsageError(
                "--category is no name of letters, digits, dots, dashes and slashes.",
                "Name what was audited, such as --category support-bot.",
            )
        given = [
            name
            for name, value in (
                ("PROMPT", prompt),
                ("--prompts", self.prompts),
                ("--probes-from-corpus", self.probes_from_corpus),
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
        singles = {**only_single, "--protect": self.protect}
        for name, value in singles.items() if prompt is None else ():
            if value:
                raise UsageError(
                    f"{name} goes with a single PROMPT, not with {given[0]}.",
                    "Put responses and protected values into the probes file, or leave it out.",
                )

    def cases(self, detection: DetectionSettings) -> list[ProbeCase]:
        """The probes of the file; none where there is no file.

        Raises:
            UsageError: it cannot be read, or nothing in it could leak.
        """
        from haiftrace.auditing.probes import read_probes

        if self.prompts is None:
            return []
        cases = read_probes(self.prompts, detection)
        if self.detect == "none":
            cases = [replace(case, detect=False) for case in cases]
            if cases and not any(case.probe.protected for case in cases):
                raise UsageError(
                    "With --detect none only protected values are leaks, and no probe has any.",
                    'Give probes "protected": [{"type", "value"}], or leave --detect out.',
                )
        return cases

    def single(self, prompt: str, response: str | None, detection: DetectionSettings) -> ProbeCase:
        """The prompt of the command line as a probe.

        Raises:
            UsageError: a value to protect has no letter and no digit.
        """
        from haiftrace.auditing.probes import single_probe

        probe = single_probe(prompt, response, tuple(self.protect or ()), detection=detection)
        return replace(probe, detect=self.detect == "all")

    def detection(self) -> DetectionSettings:
        """What detectors look for.

        Raises:
            UsageError: a type or region that there is not, or a file that cannot be read.
        """
        from haiftrace.privacy import DetectionSettings, read_allowed, read_regions, read_types

        chosen = DetectionSettings()
        return DetectionSettings(
            chosen.types if self.types is None else read_types(self.types),
            chosen.regions if self.regions is None else read_regions(self.regions),
            chosen.allowed if self.allow is None else read_allowed(self.allow),
        )

    def gate(self, say: Callable[[str], None]) -> GateSettings:
        """The gate; `say` is called for expired entries of the ignore file.

        Raises:
            HaiftraceError: the baseline, its key or the ignore file cannot be used.
        """
        from datetime import date

        from haiftrace.auditing.baseline import read_baseline, read_key
        from haiftrace.auditing.gate import GateSettings, read_ignored

        known = None if self.baseline is None else read_baseline(self.baseline)
        ignored, expired = read_ignored(self.ignore_file, date.today())
        key = read_key(self.baseline_key, known, say)
        for message in expired:
            say(message)
        return GateSettings(
            self.fail_on or "leak",
            self.max_leaks,
            known,
            key,
            ignored,
            len(expired),
            self.detection(),
        )
