"""Addresses of machines: IPv4 and IPv6, and the hardware addresses of network cards."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_HARDWARE = re.compile(
    r"(?<![\w:-])[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}(?![\w:-])"
)
_VERSION_WORD = re.compile(r"(?:version|release|build|v)\s?\Z", re.IGNORECASE)


def find_networks(text: str) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of addresses in a folded text that name a single machine."""
    for match in _HARDWARE.finditer(text):
        yield match.span()
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            is_version = _VERSION_WORD.search(text, max(0, match.start() - 12), match.start())
            if not is_version and _names_machine(match[0]):
                yield match.span()


def _names_machine(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)
