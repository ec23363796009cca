"""How the probes of an audit are asked: as one text, as a conversation, as a record begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from haiftrace.auditing.probes import ProbeCase
from haiftrace.errors import UsageError
from haiftrace.query.prompt_text import PromptSettings
from haiftrace.tracing.asking import AskingPlan, plan_asking
from haiftrace.tracing.tracer import Tracer

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint


def plan_probes(
    tracer: Tracer, cases: Sequence[ProbeCase], prompting: PromptSettings
) -> AskingPlan:
    """How the probes are asked.

    Raises:
        UsageError: some of them are conversations, which the model or the options do not allow.
    """
    chats = [case for case in cases if case.is_conversation]
    first = chats[0].probe.id if chats else ""
    if chats and not tracer.checkpoint.tokenizer.chat_template:
        raise UsageError(
            f"The probe {first} is a conversation, and the checkpoint's tokenizer has no chat"
            " template.",
            "Give its prompt as one text, as training had it.",
        )
    if chats and (prompting.chat is False or prompting.template is not None):
        raise UsageError(
            f"The probe {first} is a conversation, which is asked by the chat template only.",
            "Leave --no-chat and --template out, or give its prompt as one text.",
        )
    single = [case.prompt for case in cases if not (case.raw or case.is_conversation)]
    return plan_asking(tracer.index, tracer.checkpoint, prompting, single)


def prompting_of(plan: AskingPlan, case: ProbeCase, checkpoint: Checkpoint) -> PromptSettings:
    """How one probe is asked."""
    if case.raw:
        return plan.of_beginning()
    if case.is_conversation:
        return plan.of_conversation(case.messages, case.system)
    return plan.of_prompt(checkpoint, case.prompt)
