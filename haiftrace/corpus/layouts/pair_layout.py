"""A prompt and its response: two strings, or two lists of messages as TRL's trainer takes them."""

from __future__ import annotations

from haiftrace.corpus.layouts.chat_layouts import chat_content
from haiftrace.corpus.layouts.layout import BadRowError, Content, Fields, string, type_name

_RESPONSES = ("response", "completion")


class PairLayout:
    """`{"prompt": …, "response": …}`, or `completion`.

    Two strings are joined exactly as they stand. Two lists of messages are one chat, rendered by
    the chat template; its response is all that the template writes after the rendered prompt.
    """

    name = "prompt-completion"
    shown = "prompt-completion (prompt and response or completion)"
    needs = "'prompt' and 'response'"

    def columns(self) -> set[str]:
        """The columns of both."""
        return {"prompt", *_RESPONSES}

    def fits(self, fields: Fields) -> bool:
        """Whether both are there."""
        return "prompt" in fields and any(name in fields for name in _RESPONSES)

    def read(self, fields: Fields) -> Content:
        """The text with the response's place in it, or the chat."""
        name = next(name for name in _RESPONSES if name in fields)
        prompt, response = fields["prompt"], fields[name]
        if isinstance(prompt, list) and isinstance(response, list):
            return chat_content((("prompt", prompt), (name, response)), prompt_turns=len(prompt))
        if isinstance(prompt, list) and isinstance(response, str):
            raise BadRowError(
                f"the field 'prompt' is a list of messages and '{name}' {type_name(response)}",
                "Give both as strings, or both as lists of messages.",
            )
        before = string(prompt, "prompt")
        text = before + string(response, name)
        return Content(text, (len(before), len(text)))
