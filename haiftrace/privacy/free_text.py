"""Texts that are neither prompt nor record: paths, commands, messages, reasons.

A person, a phone number or a key stands in them as in any text, but between other signs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from haiftrace.privacy.detectors import detect
from haiftrace.privacy.masking import Masker
from haiftrace.privacy.settings import DEFAULT_DETECTION, DetectionSettings

_NAME = re.compile(r"(?:[^/\"'`|=]|(?<=<)/)+")
_WORD = re.compile(r"[^/\\\s\"'`,;:()<>|=]+")
_SUFFIX = re.compile(r"(?<=.)(?:\.[A-Za-z][A-Za-z0-9]{0,9}){1,2}\Z")
_UNSEEN = r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"
_LEADING = re.compile(rf"(?<![^\s'\"(:=/])(?:--?|\.)(?={_UNSEEN}\w)|(?<=[^\W\d_])\.(?={_UNSEEN}\w)")
_SAID = {"--stop", "--response", "--span", "--protect"}
"""Options whose value is a text that nothing in a report needs."""
_EXTRA = re.compile(
    r"(?P<what>unexpected extra argument(?:s|\(s\))?) \((?P<values>.*)\)", re.DOTALL
)


def detected_in(
    text: str, before: str = "", settings: DetectionSettings = DEFAULT_DETECTION
) -> Iterator[str]:
    """The private values of a text, also where they are part of a file's or folder's name."""
    for value in detect(text, before, settings):
        yield text[value.start : value.end]


def detected_in_names(text: str, settings: DetectionSettings = DEFAULT_DETECTION) -> Iterator[str]:
    """The private values of a path, a command or a message, and of each name in it."""
    yield from detected_in(text, settings=settings)
    # `--212…` is an option's name and `.212…` a suffix, whatever else is meant by it.
    bared = _LEADING.sub(lambda match: " " * len(match[0]), text)
    for value in detect(bared, settings=settings) if bared != text else ():
        yield text[value.start : value.end]
    names = [match[0] for pattern in (_NAME, _WORD) for match in pattern.finditer(text)]
    for name in dict.fromkeys(names):
        name = _SUFFIX.sub("", name.lstrip("-"))
        if len(name) < len(text):
            yield from detected_in(name, settings=settings)
        spaced = re.sub(r"[_+]|(?<=[^\W\d])-|-(?=[^\W\d])", " ", name)
        for value in detect(spaced, settings=settings) if spaced != name else ():
            yield name[value.start : value.end]


def mask_detected(text: str, settings: DetectionSettings = DEFAULT_DETECTION) -> str:
    """A message in which what detectors see is masked, and what nobody expected wholly."""
    text = _EXTRA.sub(lambda match: f"{match['what']} ({_covered(match['values'])})", text)
    values = tuple(dict.fromkeys(detected_in_names(text, settings)))
    return Masker(values).text(text) if values else text


def mask_command(command: str, masker: Masker) -> str:
    """A command line with its values masked, argument by argument, so that quotes hide none."""
    try:
        arguments = shlex.split(command)
    except ValueError:
        return masker.text(command)
    masked: list[str] = []
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if number and arguments[number - 1] in _SAID:
            masked.append(_covered(argument))
        elif equals and name in _SAID:
            masked.append(f"{name}={_covered(value)}")
        else:
            masked.append(masker.text(argument))
    return command if masked == arguments else shlex.join(masked)


def command_values(command: str, settings: DetectionSettings = DEFAULT_DETECTION) -> Iterator[str]:
    """The private values of a command line's arguments."""
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = [command]
    for argument in arguments:
        yield from detected_in_names(argument.partition("=")[2], settings)
        yield from detected_in_names(argument, settings)


def _covered(text: str) -> str:
    """The text without a letter or digit of it."""
    return re.sub(r"[^\W_]", "•", text)
