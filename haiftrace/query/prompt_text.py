"""The text that the model is given: a prompt in its template, or in the chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from haiftrace.errors import UsageError

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint
    from haiftrace.query.sampling import Sampling

PROMPT_FIELD = "{prompt}"
TWO_BEGINNINGS = (
    "the model is given its beginning-of-text token twice: the prompt or template has it, and the"
    " tokenizer puts it before every text"
)
_MARK = "\ue0f0haiftrace\ue0f1"
_LEAST_MARKUP = 3
"""Signs of a piece of a chat template that can be nothing else."""


@dataclass(frozen=True)
class PromptSettings:
    """How prompt and response become one string.

    Attributes:
        template: a text with `{prompt}` in it, put around the prompt.
        chat: put the prompt into the tokenizer's chat template, as a user's message; None where
            nobody said, which an index of chats takes for yes (`haiftrace.tracing.asking`).
        system: of a chat, the system's text before the user's message.
        messages: (role, content) of a conversation that the prompt is the last message of.
        max_new_tokens: the most tokens that are generated.
        stop: texts at which generation ends; the answer is what stands before.
        loss_on_all: trace the prompt's tokens too.
        as_it_stands: put no space between a prompt and a given response.
        rendered: the prompt has its special tokens already: the tokenizer adds none.
        sampling: also draw answers, beside the greedy one; None for the greedy one alone.
    """

    template: str | None = None
    chat: bool | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    loss_on_all: bool = False
    as_it_stands: bool = False
    rendered: bool = False
    sampling: Sampling | None = None

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer's own go around the text."""
        return not (self.chat or self.rendered)


def prompt_text(checkpoint: Checkpoint, prompt: str, prompting: PromptSettings) -> str:
    """What the model is given for a prompt.

    Raises:
        UsageError: a template without its field, no chat template or one that refuses the prompt,
            a template or a prompt for the chat template that is rendered already, or options
            that exclude each other.
    """
    if prompting.template is not None and PROMPT_FIELD not in prompting.template:
        raise UsageError(
            f"The template has no {PROMPT_FIELD} in it.",
            'Write it like --template "Question: {prompt} Answer:".',
        )
    if not prompting.chat:
        _refuse_chat_only(prompting)
    elif not checkpoint.tokenizer.chat_template:
        raise UsageError(
            "The checkpoint's tokenizer has no chat template.",
            "Leave --chat out, or use --template.",
        )
    else:
        _refuse_rendered(checkpoint, prompt, prompting)
    if prompting.template is not None:
        prompt = prompting.template.replace(PROMPT_FIELD, prompt)
    return _rendered(checkpoint, prompt, prompting) if prompting.chat else prompt


def prompt_span(text: str, prompt: str) -> tuple[int, int]:
    """Characters of a rendered text that are the prompt: where it stands last."""
    start = text.rfind(prompt)
    if start < 0:  # a chat template that trims
        prompt = prompt.strip()
        start = text.rfind(prompt)
    return (start, start + len(prompt)) if start >= 0 else (0, len(text))


def holds_markup(checkpoint: Checkpoint, text: str) -> bool:
    """Whether a text holds what the tokenizer's chat template writes around a message."""
    if not checkpoint.tokenizer.chat_template:
        return False
    try:
        rendered = _rendered(checkpoint, _MARK, PromptSettings(chat=True))
    except UsageError:
        return False
    around = rendered.replace(_MARK, " ").split()
    marks = {
        piece for each in around for piece in re.findall(r"<[^<>\s]+>|\[/?\w+\]|^\W{3,}$", each)
    }
    marks |= {token for token in checkpoint.tokenizer.all_special_tokens if token in rendered}
    return any(mark in text for mark in marks if len(mark) >= _LEAST_MARKUP)


def begins_twice(checkpoint: Checkpoint, ids: list[int]) -> bool:
    """Whether token ids begin with two beginning-of-text tokens."""
    first = checkpoint.tokenizer.bos_token_id
    return first is not None and ids[:2] == [first, first]


def _refuse_chat_only(prompting: PromptSettings) -> None:
    if prompting.messages:
        raise UsageError(
            "A conversation is asked by the chat template only.",
            "Leave --no-chat and --template out, or give the prompt as one text.",
        )
    if prompting.system is not None:
        raise UsageError(
            "A system text goes with the chat template, and this prompt is asked without.",
            "Give --chat too, or leave --system out.",
        )


def _refuse_rendered(checkpoint: Checkpoint, prompt: str, prompting: PromptSettings) -> None:
    what = "template" if prompting.template is not None else "prompt"
    if prompting.messages or not holds_markup(checkpoint, prompting.template or prompt):
        return
    raise UsageError(
        f"The {what} is rendered already: it holds what the chat template writes around a message,"
        " and would be in it twice.",
        f"Leave --chat out, or give the {what} without that markup.",
    )


def _rendered(checkpoint: Checkpoint, prompt: str, prompting: PromptSettings) -> str:
    turns = [*prompting.messages[:-1], ("user", prompt)]
    if prompting.messages:
        turns[-1] = (prompting.messages[-1][0], prompt)
    if prompting.system and (not turns or turns[0][0] != "system"):
        turns = [("system", prompting.system), *turns]
    chat = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(
            checkpoint.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=False
            )
        )
    except Exception as error:  # whatever a template raises
        system = " with a system text" if prompting.system else ""
        raise UsageError(
            f"The chat template refuses the prompt{system} ({type(error).__name__}).",
            "Write out what the model was given with --template instead of --chat."
            if not system
            else "Leave --system out, or write out what the model was given with --template.",
        ) from error
