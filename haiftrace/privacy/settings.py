"""What detectors look for: types, regions, and the values that may be said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import phonenumbers

from haiftrace.errors import UsageError
from haiftrace.privacy.canonical import canonical
from haiftrace.privacy.matching import spellings
from haiftrace.privacy.phones import DEFAULT_REGIONS

TYPES = (
    *("key", "email", "iban", "crypto", "national-id", "card", "passport", "date-of-birth"),
    *("address", "ip", "phone"),
)
"""The types of values that detectors know, the surest first."""

DEFAULT_TYPES = tuple(type for type in TYPES if type not in ("ip", "passport"))
"""Those that are looked for by default: the others are seldom private by themselves."""


@dataclass(frozen=True)
class DetectionSettings:
    """What is detected.

    Attributes:
        types: of values, out of `TYPES`.
        regions: ISO 3166 codes of the countries whose national phone numbers count.
        allowed: canonical forms of values that may be said.
    """

    types: tuple[str, ...] = DEFAULT_TYPES
    regions: tuple[str, ...] = DEFAULT_REGIONS
    allowed: frozenset[str] = frozenset()

    def allows(self, value: str) -> bool:
        """Whether a value may be said."""
        return bool(self.allowed) and canonical(value).text in self.allowed


DEFAULT_DETECTION = DetectionSettings()


def read_types(text: str) -> tuple[str, ...]:
    """Types with commas between them: `all`, `default`, or names, `+` or `-` before a name.

    Raises:
        UsageError: a name is no type.
    """
    chosen: set[str] = set()
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names and names[0][0] in "+-":
        chosen |= set(DEFAULT_TYPES)
    for name in names:
        bare = name.lstrip("+-")
        groups = {"all": TYPES, "default": DEFAULT_TYPES, "none": ()}
        if bare not in groups and bare not in TYPES:
            raise UsageError(
                "--types names a type that there is not.",
                f"Give some of {', '.join(TYPES)}, or all; -NAME leaves a type out of the default.",
            )
        values = set(groups.get(bare, (bare,)))
        chosen = chosen - values if name.startswith("-") else chosen | values
    return tuple(type for type in TYPES if type in chosen)


def read_regions(text: str) -> tuple[str, ...]:
    """ISO 3166 codes with commas between them.

    Raises:
        UsageError: libphonenumber knows no such region.
    """
    regions = tuple(dict.fromkeys(code.strip().upper() for code in text.split(",") if code.strip()))
    if not regions or any(code not in phonenumbers.SUPPORTED_REGIONS for code in regions):
        raise UsageError(
            "--regions names a country that there is not.",
            "Give ISO 3166 codes with commas between them, such as DE,AT,CH.",
        )
    return regions


def read_allowed(path: str) -> frozenset[str]:
    """The canonical forms of the values in a file, one a line; `# ` begins a comment.

    Raises:
        UsageError: it cannot be read. Lines are named by number, never quoted.
    """
    hint = "Give --allow a text file with a value a line."
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not valid UTF-8"
        raise UsageError(f"The allowed values in '{path}' cannot be read: {why}.", hint) from None
    return allowed_forms(_values(path, lines, hint))


def allowed_forms(values: Iterable[str]) -> frozenset[str]:
    """The canonical forms of values."""
    return frozenset(form for value in values for form in spellings(value))


def _values(path: str, lines: Sequence[str], hint: str) -> Iterable[str]:
    for number, line in enumerate(lines, 1):
        value = line.strip()
        if not value or value.startswith("#"):
            continue
        if not canonical(value).text:
            raise UsageError(f"{path}:{number} has no letter and no digit.", hint)
        yield value
