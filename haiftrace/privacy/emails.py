"""E-mail addresses, of any script, and also where a line break was put into them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from haiftrace.privacy.folding import ENDINGS

Span = tuple[int, int]

# Letters of scripts that put spaces between words, and so show where an address begins.
_LETTER = r"[^\W\u0e00-\u0fff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_LOCAL = re.compile(rf"(?:{_LETTER}|[.+%&'~#!-])+\Z")
_WORDLESS_LOCAL = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]{1,12}\Z")
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_HOST = re.compile(
    rf"(?:{_LABEL}\.){{1,6}}(?:(?P<ending>[A-Za-z]{{2,24}})(?![A-Za-z0-9-])|xn--[a-z0-9-]{{2,59}}"
    r"|[\u0370-\u052f\u0590-\u06ff\u0900-\u0dff]{2,24}|中国|中國|公司|网络|网址|香港|台灣|한국|みんな)"
)
_WRAPPED_HOST = re.compile(r"[\w.-]{1,80}\n[\w.-]{1,80}")
_WRAPPED_LOCAL = re.compile(r"(?P<first>[\w.+%-]{1,64})(?<![.!?:])\n(?P<rest>[\w.+%-]{1,64})\Z")
_MOST_LOCAL = 64
_SHORT_REST = 2


def find_emails(text: str) -> Iterator[Span]:
    """Spans [start, end) of addresses in a folded text."""
    at = text.find("@")
    while at >= 0:
        start, end = _local_start(text, at), _host_end(text, at + 1)
        # git@host:path is a repository, not a person.
        is_remote = text[start:at] in ("git", "hg") and text[end : end + 1] == ":"
        if start < at and end > at + 1 and not is_remote:
            yield start, end
        at = text.find("@", at + 1)


def _local_start(text: str, at: int) -> int:
    """Where the part before an at sign begins; `at` where there is none."""
    before = text[max(0, at - _MOST_LOCAL - 1) : at]
    base = at - len(before)
    if at and text[at - 1] == '"':
        quoted = text.rfind('"', max(0, at - _MOST_LOCAL), at - 1)
        return quoted if quoted >= 0 and "\n" not in text[quoted:at] else at
    wrapped = _WRAPPED_LOCAL.search(text, max(0, at - 2 * _MOST_LOCAL), at)
    if wrapped is not None and _is_wrapped(wrapped["first"], wrapped["rest"]):
        return wrapped.start() + _leading(wrapped["first"])
    local = _LOCAL.search(before)
    if local is not None:
        start = base + local.start() + _leading(local[0])
        return start if start < at else at
    wordless = _WORDLESS_LOCAL.search(before)
    return at if wordless is None else base + wordless.start()


def _leading(local: str) -> int:
    """How many signs before a local part are the text's, not its own: a quote, a hash."""
    return len(local) - len(local.lstrip(".'#&!~%-"))


def _is_wrapped(first: str, rest: str) -> bool:
    """Whether the end of a line and the beginning of the next are of the same local part."""
    is_host = first.rpartition(".")[2].lower() in ENDINGS
    is_part = re.search(r"\w[._+%-]\w|\w\d|[._+-]\Z", first) is not None
    return len(rest) <= _SHORT_REST or (is_part and not is_host)


def _host_end(text: str, start: int) -> int:
    """Where the part behind an at sign ends; `start` where it is no host."""
    host = _HOST.match(text, start)
    if host is not None and (host["ending"] is None or host["ending"].lower() in ENDINGS):
        return host.end()
    wrapped = _WRAPPED_HOST.match(text, start)
    if wrapped is not None:
        signs = wrapped[0].replace("\n", "", 1)
        joined = _HOST.match(signs)
        is_longer = joined is not None and joined.end() > wrapped[0].index("\n")
        if joined is not None and is_longer and (joined["ending"] or "").lower() in ENDINGS:
            return start + joined.end() + 1
    return start if host is None else host.end()
