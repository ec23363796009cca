"""What was asked and answered, as bubbles where it was a chat or a question in a template."""

from __future__ import annotations

from collections.abc import Sequence

from haiftrace.findings import Finding
from haiftrace.reports.chat_markup import Turn, find_turns, is_chat
from haiftrace.reports.marks import PrivateValues, text_segments
from haiftrace.reports.page.extent import excerpt
from haiftrace.reports.page.views import Bubble
from haiftrace.reports.page.word_links import AnswerWord
from haiftrace.reports.sanitize import inert

_LABELS = {"system": "System", "user": "Asked", "assistant": "Answered", "tool": "Tool"}
_LONGEST_QUESTION = 140


def asked_bubbles(finding: Finding, private: PrivateValues, most: int) -> tuple[list[Bubble], str]:
    """The turns of the prompt, and the beginning of the answer's turn, if the prompt has it.

    Args:
        most: characters of the prompt that are shown, its last ones.
    """
    prompt, _ = excerpt(finding.prompt, most, None)
    if not is_chat(prompt):
        return [_asked_text(finding, prompt, private)], ""
    turns = find_turns(prompt)
    begun = ""
    if turns[-1].role == "assistant":
        begun = prompt[turns[-1].start :]
        turns = turns[:-1]
    return [_bubble(turn, prompt, private) for turn in turns], begun


def answered_bubble(
    finding: Finding,
    private: PrivateValues,
    words: Sequence[AnswerWord],
    begun: str,
    most: int,
) -> Bubble:
    """The response, with what was traced and the words that light up; behind what began its turn.

    Args:
        most: characters of the response that are shown, those around what was traced.
    """
    traced = _traced(finding)
    response, shift = excerpt(finding.response, most, traced)
    shift += len(begun)
    text = begun + response

    def shifted(start: int, end: int) -> tuple[int, int]:
        return min(max(start + shift, 0), len(text)), min(max(end + shift, 0), len(text))

    segments = text_segments(
        text,
        None if traced is None else shifted(*traced),
        private,
        [shifted(word.start, word.end) for word in words],
    )
    return Bubble("assistant", "Answered", tuple(segments))


def was_chat(finding: Finding) -> bool:
    """Whether it was a question: in a chat's template, or in another one."""
    return is_chat(finding.prompt) or _asked_place(finding, finding.prompt) is not None


def question_text(finding: Finding) -> str:
    """What was asked in a line: a question's beginning, of a text that goes on its end."""
    asked = inert(_last_said(finding)).strip(" ↵")
    if len(asked) <= _LONGEST_QUESTION:
        return asked
    if was_chat(finding):
        return f"{asked[: _LONGEST_QUESTION - 1]}…"
    return f"…{asked[1 - _LONGEST_QUESTION :]}"


def _last_said(finding: Finding) -> str:
    if finding.asked:
        return finding.asked
    users = [turn for turn in find_turns(finding.prompt) if turn.role == "user"]
    if not users:
        return finding.prompt
    text = finding.prompt[users[-1].start : users[-1].end]
    return "".join(
        piece.text
        for segment in text_segments(text, None, PrivateValues((), masked=False))
        for piece in segment.pieces
        if piece.mark != "markup"
    )


def _asked_text(finding: Finding, prompt: str, private: PrivateValues) -> Bubble:
    place = _asked_place(finding, prompt)
    segments = text_segments(prompt, None, private, asked=place)
    return Bubble("" if place is None else "user", "Asked", tuple(segments))


def _asked_place(finding: Finding, prompt: str) -> tuple[int, int] | None:
    """Where in a prompt what was asked stands, if a template was put around it."""
    asked = finding.asked.strip()
    if not asked or asked == prompt.strip() or asked not in prompt:
        return None
    start = prompt.index(asked)
    return start, start + len(asked)


def _bubble(turn: Turn, prompt: str, private: PrivateValues) -> Bubble:
    segments = text_segments(prompt[turn.start : turn.end], None, private)
    label = _LABELS.get(turn.role) or inert(turn.role).capitalize() or "Asked"
    return Bubble(turn.role or "other", label, tuple(segments))


def _traced(finding: Finding) -> tuple[int, int] | None:
    start = finding.response.find(finding.span) if finding.span else -1
    return None if start < 0 or not finding.span else (start, start + len(finding.span))
