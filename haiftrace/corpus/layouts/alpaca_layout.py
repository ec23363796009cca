"""Alpaca: an instruction, an input that may be empty, and an output, in Stanford's template."""

from __future__ import annotations

from haiftrace.corpus.layouts.layout import BadRowError, Content, Fields, string

_OPENING = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_CLOSING = ". Write a response that appropriately completes the request.\n\n"


class AlpacaLayout:
    """`{"instruction": …, "input": …, "output": …}`.

    The text is the `text` of Stanford's data set, as its trainers and Axolotl's render it: one
    opening for a record with an input, another without. The response is the output.
    """

    name = "alpaca"
    shown = "alpaca (instruction, input and output in Stanford's template)"
    needs = "'instruction' and 'output'"

    def columns(self) -> set[str]:
        """The columns of the three, and of an earlier conversation."""
        return {"instruction", "input", "output", "history"}

    def fits(self, fields: Fields) -> bool:
        """Whether instruction and output are there."""
        return "instruction" in fields and "output" in fields

    def read(self, fields: Fields) -> Content:
        """The rendered text, and the output's place in it."""
        if fields.get("history"):
            raise BadRowError(
                "the record has a history, which Alpaca's template has no place for",
                "Write such records as messages.",
            )
        instruction, output = (string(fields[name], name) for name in ("instruction", "output"))
        context = string(fields.get("input", ""), "input")
        if not (instruction or context or output):
            return Content("", (0, 0))
        paired, block = ("", "")
        if context:
            paired, block = _WITH_INPUT, f"### Input:\n{context}\n\n"
        prompt = (
            f"{_OPENING}{paired}{_CLOSING}### Instruction:\n{instruction}\n\n{block}### Response:\n"
        )
        return Content(prompt + output, (len(prompt), len(prompt) + len(output)))
