"""Hostile text made inert: what a prompt, a response or a corpus holds never steers a reader.

Control characters drive terminals, bidirectional overrides reorder lines, and invisible characters
hide text. None of them is dropped, since this is a forensic tool: each is shown as a visible sign
on the terminal, and as a `\\u` escape in JSON.
"""

from __future__ import annotations

import re
import unicodedata

# Everything that steers or hides from U+007F on: DEL and C1, bidirectional controls, zero-width and
# other default-ignorable characters, line separators, lone surrogates, invisible tags.
_BEYOND_ASCII = (
    "\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_STEERS = re.compile(rf"\r\n|[\x00-\x1f{_BEYOND_ASCII}]")
_STEERS_BEYOND_ASCII = re.compile(f"[{_BEYOND_ASCII}]")

_JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner
_VARIATIONS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SIGNS = {"\n": "↵", "\r": "↵", "\r\n": "↵", "\t": "⇥", "\x7f": "^?"}

# The reports' own signs, for a terminal that cannot show more than ASCII.
_PLAIN_SIGNS = str.maketrans(
    {
        "…": "...",
        "│": "|",
        "─": "-",
        "←": "<-",
        "·": "-",
        "↵": "\\n",
        "⇥": "\\t",
        "█": "#",
        "░": ".",
        "—": "-",
    }
    | dict(zip("▁▂▃▄▅▆▇┊◆•", ".._-=+*|o*", strict=True))
)


def inert(text: str) -> str:
    """Show `text` on one line, so that no terminal acts on any character of it.

    Line breaks become `↵`, tabs `⇥`, other control characters of ASCII their caret notation
    (`^[`), what is invisible or reorders text its code point (`<U+202E>`), half a surrogate pair
    U+FFFD. The joiners and variation selectors in the spelling of emoji and of scripts stay.
    """
    return _STEERS.sub(_sign, text)


def short(text: str, most: int) -> str:
    """Inert text of at most so many characters."""
    shown = inert(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def inert_json(document: str) -> str:
    """Escape in a serialised JSON document what `json.dumps` leaves raw beyond ASCII.

    A string of JSON may hold these characters only inside its strings, so that `\\uXXXX` is always
    right. Half a surrogate pair has no meaning to a JSON reader and becomes U+FFFD, one character
    for one, so that offsets still hold.
    """
    return _STEERS_BEYOND_ASCII.sub(_json_escape, document)


def encodable(text: str, encoding: str) -> str:
    """Spell what `encoding` cannot show in ASCII: our own signs simply, other text as escapes."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_PLAIN_SIGNS)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _sign(match: re.Match[str]) -> str:
    steering = match[0]
    if steering in _SIGNS:
        return _SIGNS[steering]
    code = ord(steering)
    if code < 0x20:
        return f"^{chr(0x40 + code)}"
    if 0xD800 <= code <= 0xDFFF:
        return "�"
    if _spells_something(match.string, match.start()):
        return steering
    return f"<U+{code:04X}>"


def _spells_something(text: str, at: int) -> bool:
    """Whether the joiner or variation selector at `at` belongs to an emoji or to a letter."""
    before = text[at - 1] if at > 0 else ""
    after = text[at + 1] if at + 1 < len(text) else ""
    if _VARIATIONS.match(text[at]):
        if before.isascii():
            return after == "\u20e3"  # a keycap; anything else in ASCII hides data
        return unicodedata.category(before) in {"So", "Sm", "Po", "Lo"}
    if text[at] in _JOINERS:
        if _VARIATIONS.match(before):
            before = text[at - 2] if at > 1 else ""
        return _joinable(before) and _joinable(after)
    return False


def _joinable(character: str) -> bool:
    """Whether it is an emoji or its modifier, or a letter of a script that has joiners."""
    if not character or character.isascii() or _STEERS.match(character):
        return False
    category = unicodedata.category(character)
    joins_letters = "\u0600" <= character <= "\u1fff"  # Arabic to Mongolian; never Latin or Han
    return category in {"So", "Sk"} or (joins_letters and category in {"Lo", "Mn", "Mc"})


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xD800 <= code <= 0xDFFF:
        return "�"
    if code > 0xFFFF:
        high, low = 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF)
        return f"\\u{high:04x}\\u{low:04x}"
    return f"\\u{code:04x}"
