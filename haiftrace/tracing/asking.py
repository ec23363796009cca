"""Is the model asked as it was trained? The corpus says how, and the model what it expects.

An index of chats is asked by the chat template. Of other corpora, forms of prompts are tried: those
that their records show, usual ones, and the chat template. A model that was trained on a form
expects what closes it (`Answer:`, say) after any prompt, which no other form's closing is.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from haiftrace.corpus.layouts import Messages
from haiftrace.corpus.training_form import BARE, TrainingForm, forms_of_texts
from haiftrace.findings import Asking, Report
from haiftrace.query.prompt_text import PromptSettings, holds_markup
from haiftrace.query.surprise import Surprise, surprises
from haiftrace.store import Index
from haiftrace.store.sample import sample_rows

if TYPE_CHECKING:
    from haiftrace.checkpoint.load import Checkpoint

EXPECTED_CLOSING = 1.0
"""Mean loss in nats of what closes a form, below which the model was trained on the form.

Measured: of the form that was trained, 0.00 (the demo), 0.01 to 0.75 (two-layer models of four
forms, asked what they were trained on and anything else), 0.04 to 0.09 (SmolLM2-Instruct's chat
template). Of any other, 1.15 and more for SmolLM2-Instruct, 3.4 after fine-tuning, 6.5 and more for
the small ones."""

UNLIKE_PROMPTS = 3.0
"""Nats a token above the corpus' most surprising prompt, from which a prompt resembles none.

Measured on three two-layer models of bare prompts: none of 120 questions for people whom nobody was
asked about in training is 2 above, all questions in other words are 6 above."""

USUAL_FORMS = (
    "Question: {prompt} Answer:",
    "Question: {prompt}\nAnswer:",
    "Q: {prompt}\nA:",
    "Q: {prompt} A:",
    "User: {prompt}\nAssistant:",
    "Human: {prompt}\n\nAssistant:",
    "### Instruction:\n{prompt}\n\n### Response:\n",
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request.\n\n### Instruction:\n{prompt}\n\n### Response:\n",
    "### Human: {prompt}\n### Assistant:",
    "[INST] {prompt} [/INST]",
    "<|user|>\n{prompt}\n<|assistant|>\n",
)
CHAT_OPTION = "--chat"

_TRIED = 8
"""Prompts of an audit that forms are tried with."""
_SAMPLED = 256
"""Windows that the surprise of a text corpus is read off."""
_HIGHEST = 0.99
"""Of its windows' mean losses, this quantile is the highest that is usual."""


@dataclass(frozen=True)
class AskingPlan:
    """How prompts are asked, and what is to be said of it.

    Attributes:
        prompting: of a prompt that is one text, with nothing left open.
        by_corpus: whether the chat template is used only because the corpus is chats.
        rendered_chats: whether the texts of the index are rendered chats.
        asking: of the findings; None where nothing is to be said.
        said: for the user, before the model is asked; empty for nothing.
    """

    prompting: PromptSettings
    by_corpus: bool = False
    rendered_chats: bool = False
    asking: Asking | None = None
    said: str = ""

    @property
    def warning(self) -> str:
        """What is to be said of how prompts are asked, in a line; "" for nothing."""
        if self.asking is None:
            return ""
        return " ".join(filter(None, (self.asking.note, self.asking.option)))

    def of_prompt(self, checkpoint: Checkpoint, prompt: str) -> PromptSettings:
        """For one prompt: one that is rendered as a chat already is asked as it stands."""
        if self.by_corpus and holds_markup(checkpoint, prompt):
            return replace(self.prompting, chat=False, system=None, rendered=True)
        return self.prompting

    def of_beginning(self) -> PromptSettings:
        """For a prompt that is the beginning of a record's text."""
        return replace(
            self.prompting, template=None, chat=False, system=None, rendered=self.rendered_chats
        )

    def of_conversation(self, messages: Messages, system: str | None) -> PromptSettings:
        """For a prompt that is the last message of a conversation, or has a system text."""
        return replace(
            self.prompting,
            chat=True,
            messages=messages,
            system=self.prompting.system if system is None else system,
        )

    def with_asking(self, report: Report) -> Report:
        """The report with what is to be said of how its prompts were asked."""
        if self.asking is None:
            return report
        findings = tuple(replace(finding, asking=self.asking) for finding in report.findings)
        return replace(report, findings=findings)


def plan_asking(
    index: Index, checkpoint: Checkpoint, prompting: PromptSettings, prompts: Sequence[str]
) -> AskingPlan:
    """How prompts are asked over an index.

    Args:
        prompting: as the user said it; what is left open the corpus decides.
        prompts: those that will be asked as one text, the beginnings of records not among them.
    """
    form = TrainingForm.read(index.manifest.extra.get("form")) or _form_of_old(index)
    is_said = prompting.chat is not None or prompting.template is not None
    by_corpus = not is_said and form.is_chat and bool(checkpoint.tokenizer.chat_template)
    if by_corpus or prompting.chat or (prompting.system is not None and not is_said):
        is_own = prompting.system is None and form.is_chat and form.system is not None
        system = form.system if is_own else prompting.system
        of_corpus = " and their system text" if is_own else ""
        said = (
            f"Asked by the chat template{of_corpus}, as the corpus is chats (--no-chat: as it"
            " stands)."
        )
        return AskingPlan(
            replace(prompting, chat=True, system=system),
            by_corpus,
            form.is_chat,
            said=said if by_corpus else "",
        )
    plan = AskingPlan(replace(prompting, chat=False), rendered_chats=form.is_chat)
    if is_said:
        return plan
    step = max(1, -(-len(prompts) // _TRIED))
    return replace(plan, asking=_asking(index, checkpoint, form, prompts[::step]))


def _asking(
    index: Index, checkpoint: Checkpoint, form: TrainingForm, prompts: Sequence[str]
) -> Asking | None:
    """What is to be said of prompts that are asked as they stand."""
    bare = _mean(surprises(checkpoint, prompts, PromptSettings()))
    if bare is None:
        return None
    usual = _usual_loss(index, form)
    labelled = [template for template in form.templates if template != BARE]
    is_labelled = form.has_prompts and bool(labelled) and BARE not in form.templates
    if is_labelled and not any(_has_form(prompt, labelled) for prompt in prompts):
        # Where the loss is on responses, the model never learnt to expect a prompt's words.
        best, _ = _best(checkpoint, prompts, labelled)
        return _suggested(bare, usual, best or labelled[0], None)
    if usual is None or bare.total <= usual:
        return None
    candidates = list(dict.fromkeys([*labelled, *USUAL_FORMS]))
    if checkpoint.tokenizer.chat_template:
        candidates.append(CHAT_OPTION)
    expected, loss = _best(checkpoint, prompts, candidates, EXPECTED_CLOSING)
    if expected is not None and loss is not None and loss < bare.total:
        return _suggested(bare, usual, expected, loss)
    if form.has_prompts and bare.total > usual + UNLIKE_PROMPTS:
        return Asking(
            "What was asked resembles none of the prompts that the corpus holds, so that the model"
            " was hardly asked as it was trained. Ask as they do.",
            None,
            bare.total,
            usual,
        )
    return None


def _best(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    forms: Sequence[str],
    most: float = float("inf"),
) -> tuple[str | None, float | None]:
    """The form under which prompts are least surprising, and their loss in it.

    Args:
        most: mean loss that what closes the form may have.
    """
    best: tuple[float, str] | None = None
    for form in forms:
        chat = form == CHAT_OPTION
        asked = PromptSettings(template=None if chat else form, chat=chat)
        surprise = _mean(surprises(checkpoint, prompts, asked))
        if surprise is None or surprise.closing is None or surprise.closing >= most:
            continue
        if best is None or surprise.total < best[0]:
            best = (surprise.total, form)
    return (None, None) if best is None else (best[1], best[0])


def _mean(measured: Sequence[Surprise | None]) -> Surprise | None:
    """The median over prompts; None where none could be measured."""
    known = [surprise for surprise in measured if surprise is not None]
    if not known:
        return None
    closings = [surprise.closing for surprise in known if surprise.closing is not None]
    return Surprise(
        float(np.median([surprise.prompt for surprise in known])),
        float(np.median(closings)) if closings else None,
        float(np.median([surprise.total for surprise in known])),
    )


def _suggested(bare: Surprise, usual: float | None, form: str, loss: float | None) -> Asking:
    option = CHAT_OPTION if form == CHAT_OPTION else f"--template {_quoted(form)}"
    why = "the corpus holds prompts of another form" if loss is None else "it expects another form"
    return Asking(
        f"The model was not asked as it was trained: {why}, and it may answer otherwise to that."
        " Ask again in that form:",
        option,
        bare.total,
        usual,
        loss,
    )


def _quoted(form: str) -> str:
    """As a shell takes it, line breaks too."""
    if "\n" not in form:
        return shlex.quote(form)
    return "$'" + form.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _has_form(prompt: str, templates: Sequence[str]) -> bool:
    for template in templates:
        opening, _, closing = template.partition(BARE)
        if prompt.lstrip().startswith(opening.strip()) and prompt.rstrip().endswith(
            closing.strip()
        ):
            return True
    return False


def _usual_loss(index: Index, form: TrainingForm) -> float | None:
    """The highest mean loss that is usual in the corpus: of its prompts, or of its texts."""
    if form.has_prompts:
        return max(form.prompt_losses, default=None)
    losses = [
        window.token_loss[np.asarray(window.labels)].mean()
        for window in index.iter_windows(sample_rows(index, _SAMPLED, 0))
        if any(window.labels)
    ]
    return float(np.quantile(losses, _HIGHEST)) if losses else None


def _form_of_old(index: Index) -> TrainingForm:
    """Of an index that does not keep it: by what it was told of its records, and by their texts."""
    named = index.settings.get("corpus", {}).get("format")
    if named in ("messages", "sharegpt"):
        return TrainingForm(chats=1)
    rows = sample_rows(index, _SAMPLED, 0)
    texts = [window.text for window in index.iter_windows(rows) if window.start == 0]
    return TrainingForm(texts=max(1, len(texts)), templates=forms_of_texts(texts))
