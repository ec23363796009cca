"""Probe files: the prompts of an audit, and what must not be in the answers.

A line of JSON a probe: `{"prompt": …, "system"?: …, "response"?: …, "protected"?: [{"type",
"value"}], "id"?}`. In place of the prompt a line may have a conversation, `"messages"`: [{"role",
"content"}], whose last message is the prompt; an assistant's message after that is the response.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from haiftrace.corpus.layouts import BadRowError, Messages
from haiftrace.corpus.layouts.chat_layouts import chat_content
from haiftrace.errors import UsageError
from haiftrace.findings import PrivateValue, Probe
from haiftrace.privacy import DEFAULT_DETECTION, DetectionSettings, canonical, detect

STDIN = "-"
_FIELDS = {"prompt", "messages", "system", "response", "protected", "id"}


@dataclass(frozen=True)
class ProbeCase:
    """A probe with its prompt.

    Attributes:
        probe: what a finding says of it.
        prompt: as it stands, before any template.
        response: what was answered, where that is known.
        raw: without template or chat: the prompt is the beginning of a record's text.
        detect: values that nobody named count as leaks, too.
        group: number of the value that is tried; once it leaks, its other probes are left out.
        detection: what detectors look for in the answer.
        messages: the conversation that the prompt is the last message of.
        system: the system's text before it; None where the probe does not say.
    """

    probe: Probe
    prompt: str
    response: str | None = None
    raw: bool = False
    detect: bool = True
    group: int | None = None
    detection: DetectionSettings = DEFAULT_DETECTION
    messages: Messages = ()
    system: str | None = None

    @property
    def asked(self) -> str:
        """All that was asked: the prompt, or a conversation's texts and the system's."""
        before = [text for _, text in self.messages] or [self.prompt]
        return "\n".join(before if self.system is None else [self.system, *before])

    @property
    def is_conversation(self) -> bool:
        """Whether it is asked by the chat template whatever the corpus is."""
        return bool(self.messages) or self.system is not None


def read_probes(path: str, detection: DetectionSettings | None = None) -> list[ProbeCase]:
    """The probes of a JSONL file, or of stdin for `-`; blank lines are none.

    Args:
        detection: what detectors look for in the answers.

    Raises:
        UsageError: the file cannot be read, a line is no probe, or an id stands twice. Lines are
            named by number, never quoted.
    """
    try:
        raw = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"The probes in '{path}' cannot be read: {error.strerror}.",
            "Give --prompts a JSONL file, or - for stdin.",
        ) from None
    shown = "stdin" if path == STDIN else path
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    cases = _cases(((n, line) for n, line in enumerate(lines, 1) if line.strip()), shown)
    return cases if detection is None else [replace(case, detection=detection) for case in cases]


def probe_cases(probes: Iterable[Mapping[str, Any]]) -> list[ProbeCase]:
    """Probes that are given as mappings, with the fields of a line.

    Raises:
        UsageError: one of them is no probe, or an id stands twice.
    """
    lines = (json.dumps(dict(probe)).encode() for probe in probes)
    return _cases(enumerate(lines, 1), "probes")


def _cases(lines: Iterable[tuple[int, bytes]], shown: str) -> list[ProbeCase]:
    cases: list[ProbeCase] = []
    seen: dict[str, int] = {}
    for number, line in lines:
        case = _case(line, shown, number)
        first = seen.setdefault(case.probe.id, number)
        if first != number:
            raise _bad(shown, number, f"its id is that of line {first}")
        cases.append(case)
    return cases


def single_probe(
    prompt: str,
    response: str | None,
    values: Sequence[str],
    id: str = "prompt",
    detection: DetectionSettings | None = None,
) -> ProbeCase:
    """The prompt of the command line as a probe.

    Args:
        detection: what detectors look for in the response.

    Raises:
        UsageError: a value to protect without a letter or a digit.
    """
    for value in values:
        if not canonical(value).text:
            raise UsageError(
                "A value of --protect has no letter and no digit.", "Give the value itself."
            )
    protected = tuple(PrivateValue(_type_of(value), value) for value in values)
    probe = Probe(id, protected=protected)
    return ProbeCase(probe, prompt, response, detection=detection or DEFAULT_DETECTION)


def _type_of(value: str) -> str:
    for detected in detect(value):
        if (detected.start, detected.end) == (0, len(value)):
            return detected.type
    return "value"


def _case(line: bytes, shown: str, number: int) -> ProbeCase:
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError:
        raise _bad(shown, number, "it is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad(shown, number, f"malformed JSON (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise _bad(shown, number, "malformed JSON") from None
    if not isinstance(content, dict):
        raise _bad(shown, number, "it is no JSON object")
    if set(content) - _FIELDS:
        raise _bad(shown, number, f"it has a field besides {', '.join(sorted(_FIELDS))}")
    messages, said = _conversation(content, shown, number)
    prompt = messages[-1][1] if messages else content.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise _bad(shown, number, "its 'prompt' is missing, empty or no string")
    system = content.get("system")
    if system is not None and not isinstance(system, str):
        raise _bad(shown, number, "its 'system' is no string")
    if system is not None and messages[:1] and messages[0][0] == "system":
        raise _bad(shown, number, "it has a system text and a system's message")
    response = content.get("response")
    if response is not None and said is not None:
        raise _bad(shown, number, "it has a response, and its conversation ends with another one")
    response = said if response is None else response
    if response is not None and not isinstance(response, str):
        raise _bad(shown, number, "its 'response' is no string")
    own = content.get("id")
    if own is not None and (not isinstance(own, str | int) or isinstance(own, bool) or own == ""):
        raise _bad(shown, number, "its 'id' is no string and no integer")
    for text in (prompt, system or "", response or "", str(own or "")):
        _check_text(text, shown, number)
    protected = tuple(_protected(content.get("protected"), shown, number))
    id = f"{shown}:{number}" if own is None else str(own)
    probe = Probe(id, shown, number, protected)
    return ProbeCase(probe, prompt, response, messages=messages, system=system)


def _conversation(
    content: Mapping[str, Any], shown: str, number: int
) -> tuple[Messages, str | None]:
    """The messages up to the prompt, and what the assistant said after it."""
    if content.get("messages") is None:
        return (), None
    if content.get("prompt") is not None:
        raise _bad(shown, number, "it has both a 'prompt' and 'messages'")
    try:
        messages = chat_content((("messages", content["messages"]),)).messages or ()
    except BadRowError as bad:
        raise _bad(shown, number, bad.problem) from None
    said = None
    if messages and messages[-1][0] == "assistant":
        messages, said = messages[:-1], messages[-1][1]
    if not messages or messages[-1][0] in ("assistant", "system") or not messages[-1][1]:
        raise _bad(shown, number, "its 'messages' ask nothing: the last of them is no user's")
    return messages, said


def _protected(listed: Any, shown: str, number: int) -> Iterator[PrivateValue]:
    what = "its 'protected' is no list of objects with the strings 'type' and 'value'"
    if listed is not None and not isinstance(listed, list):
        raise _bad(shown, number, what)
    for entry in listed or ():
        if not isinstance(entry, dict) or set(entry) != {"type", "value"}:
            raise _bad(shown, number, what)
        if not all(isinstance(text, str) and text for text in entry.values()):
            raise _bad(shown, number, what)
        _check_text(entry["value"], shown, number)
        if not canonical(entry["value"]).text:
            raise _bad(shown, number, "a protected value has no letter and no digit")
        yield PrivateValue(entry["type"], entry["value"])


def _check_text(text: str, shown: str, number: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(shown, number, "it holds half a surrogate pair") from None


def _bad(shown: str, number: int, problem: str) -> UsageError:
    return UsageError(
        f"{shown}:{number} is no probe: {problem}.",
        'Write a line like {"prompt": "...", "protected": [{"type": "phone", "value": "..."}]}.',
    )
