"""How a corpus shows that its model is asked: by chats, by prompts of a form, by plain text.

A form is a text with `{prompt}` in it: what stands around a prompt in training. It is read off the
labels of records, such as `Question:` and `Answer:`, `### Response:`, `[/INST]` or `<|user|>`.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from haiftrace.corpus.record_fields import Record

BARE = "{prompt}"

_SAMPLE = 256
"""Records that forms are read off."""
_LONGEST = 2000
"""Characters of a record that are looked at."""
_LEAST_SHARE = 0.05
"""Of the sampled records that have a form, for it to be one."""
_MOST_FORMS = 4
_SYSTEM_SHARE = 0.9
"""Of the chats that open with one system text, for it to be that of every chat."""
_MOST_SYSTEM_TEXTS = 1000
_LABEL = re.compile(
    r"(?:^|(?<=\s))\#{0,6}[ ]?[^\W\d_][^\W_]{0,20}(?:[ ][^\W_]{1,20})?[ ]?[:：]"
    r"(?=\s|$|[^\x00-\x7f])"
    r"|<[^<>\s]{1,30}>"
    r"|\[/?[A-Z]{2,12}\]",
    re.MULTILINE,
)


@dataclass(frozen=True)
class TrainingForm:
    """What a corpus shows of how its model is asked.

    Attributes:
        chats: records that are.
        prompts: records that have a prompt and a response.
        texts: other records.
        system: the system text that (nearly) all chats open with; None where there is none.
        templates: forms of prompts, the most frequent first; `{prompt}` is one without labels.
        prompt_losses: mean losses in nats of sampled prompts, ascending; empty where not measured.
    """

    chats: int = 0
    prompts: int = 0
    texts: int = 0
    system: str | None = None
    templates: tuple[str, ...] = ()
    prompt_losses: tuple[float, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether most records are chats."""
        return self.chats > self.prompts + self.texts

    @property
    def has_prompts(self) -> bool:
        """Whether most records that are no chats have a prompt and a response."""
        return not self.is_chat and self.prompts > self.texts

    def kept(self) -> dict[str, Any]:
        """For an index to keep."""
        return asdict(self)

    @classmethod
    def read(cls, kept: Any) -> TrainingForm | None:
        """What an index keeps; None where it keeps nothing of the kind."""
        if not isinstance(kept, Mapping):
            return None
        try:
            return cls(
                chats=int(kept["chats"]),
                prompts=int(kept["prompts"]),
                texts=int(kept["texts"]),
                system=None if kept["system"] is None else str(kept["system"]),
                templates=tuple(str(text) for text in kept["templates"] if BARE in str(text)),
                prompt_losses=tuple(float(loss) for loss in kept["prompt_losses"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclass
class FormSample:
    """Records as they pass by: all are counted, some are kept (Vitter's algorithm R).

    Attributes:
        prompts: of records with a prompt and a response; texts: of other records.
    """

    prompts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)
    _systems: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def offer(self, record: Record) -> None:
        """One record more."""
        if record.messages is not None:
            self._counts["chats"] += 1
            role, content = record.messages[0] if record.messages else ("", "")
            if role == "system" and len(self._systems) < _MOST_SYSTEM_TEXTS:
                self._systems[content] += 1
        elif record.prompt_end is not None:
            self._keep(self.prompts, "prompts", record.text[: record.prompt_end])
        else:
            self._keep(self.texts, "texts", record.text[:_LONGEST])

    def _keep(self, kept: list[str], kind: str, text: str) -> None:
        place = self._random.randrange(self._counts[kind] + 1)
        self._counts[kind] += 1
        if len(kept) < _SAMPLE:
            kept.append(text)
        elif place < _SAMPLE:
            kept[place] = text

    def form(self) -> TrainingForm:
        """What they show."""
        counts = self._counts
        least = max(1.0, _SYSTEM_SHARE * counts["chats"])
        system = next((text for text, n in self._systems.items() if n >= least), None)
        of_prompts = _frequent(map(_prompt_form, self.prompts), len(self.prompts))
        of_texts = _frequent(map(text_form, self.texts), len(self.texts))
        if counts["prompts"] <= counts["texts"]:
            of_prompts, of_texts = of_texts, of_prompts
        templates = tuple(dict.fromkeys([*of_prompts, *of_texts]))
        return TrainingForm(counts["chats"], counts["prompts"], counts["texts"], system, templates)


def forms_of_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """The forms of prompts that plain texts show, the most frequent first."""
    sampled = [text[:_LONGEST] for text in texts]
    return tuple(_frequent(map(text_form, sampled), len(sampled)))


def text_form(text: str) -> str | None:
    """The form of the prompt that a text begins with: its first two labels and what parts them.

    None for a text that begins with no label, or has one alone.
    """
    first = _LABEL.match(text)
    start = first.end() if first else 0
    for second in _LABEL.finditer(text, start) if first else ():
        asked = text[start : second.start()]
        if asked.strip():
            return _joined(text[:start], asked, second[0], text[second.end() :])
        start = second.end()  # labels that follow each other: <s>[INST]
    return None


def _prompt_form(prompt: str) -> str:
    """The form of a prompt: up to its first label, and its last one where it ends with that."""
    labels = list(_LABEL.finditer(prompt))
    last = labels[-1] if labels and not prompt[labels[-1].end() :].strip() else None
    first = labels[0] if labels and labels[0] is not last else None
    start = first.end() if first else 0
    end = last.start() if last else len(prompt)
    if not prompt[start:end].strip():
        return BARE
    closing = prompt[last.start() :] if last else ""
    return _joined(prompt[:start], prompt[start:end], closing, "")


def _joined(opening: str, asked: str, closing: str, after: str) -> str:
    """The form with the white space around what is asked, and a line break after the last label."""
    before = asked[: len(asked) - len(asked.lstrip())]
    behind = asked[len(asked.rstrip()) :]
    # A space there is the response's own; a line break is not.
    after = after[: len(after) - len(after.lstrip())] if after[:1] == "\n" else ""
    return f"{opening}{before}{BARE}{behind}{closing}{after}"


def _frequent(forms: Iterable[str | None], sampled: int) -> list[str]:
    counts = Counter(form for form in forms if form is not None)
    least = max(2, _LEAST_SHARE * sampled)
    return [form for form, count in counts.most_common(_MOST_FORMS) if count >= least]
