"""Private values: detecting them, matching their spellings, masking them."""

from haiftrace.privacy.canonical import canonical
from haiftrace.privacy.detectors import TYPES, Detected, detect
from haiftrace.privacy.masking import MASK, Masker, mask_value
from haiftrace.privacy.matching import Match, ValueIndex
from haiftrace.privacy.report_masking import mask_report, private_values

__all__ = [
    "MASK",
    "TYPES",
    "Detected",
    "Masker",
    "Match",
    "ValueIndex",
    "canonical",
    "detect",
    "mask_report",
    "mask_value",
    "private_values",
]
