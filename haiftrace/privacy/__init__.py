"""Private values: detecting them, matching their spellings, masking them."""

from haiftrace.privacy.canonical import canonical
from haiftrace.privacy.detectors import Detected, detect
from haiftrace.privacy.free_text import mask_detected
from haiftrace.privacy.languages import regions_of
from haiftrace.privacy.masking import MASK, Masker, mask_value
from haiftrace.privacy.matching import Match, ValueIndex, identity
from haiftrace.privacy.report_masking import mask_report, private_values
from haiftrace.privacy.settings import (
    DEFAULT_DETECTION,
    DEFAULT_TYPES,
    TYPES,
    DetectionSettings,
    read_allowed,
    read_regions,
    read_types,
)

__all__ = [
    "DEFAULT_DETECTION",
    "DEFAULT_TYPES",
    "MASK",
    "TYPES",
    "Detected",
    "DetectionSettings",
    "Masker",
    "Match",
    "ValueIndex",
    "canonical",
    "detect",
    "identity",
    "mask_detected",
    "mask_report",
    "mask_value",
    "private_values",
    "read_allowed",
    "read_regions",
    "read_types",
    "regions_of",
]
