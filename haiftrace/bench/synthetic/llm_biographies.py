"""Biographies written by a local instruction model, as the paper had them from QWen1.5-14B-Chat.

A small model garbles digits. What it writes is taken only where every value stands in it word for
word; it gets several attempts, warmer each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haiftrace.bench.synthetic.biographies import missing_values
from haiftrace.bench.synthetic.subjects import Subject
from haiftrace.errors import CheckpointError
from haiftrace.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ATTEMPTS = 5
_MOST_TOKENS = 320
_LEAST_CONTEXT = 1024
_TEMPERATURES = (0.3, 0.5, 0.7, 0.9, 1.1)

_REQUESTS = {
    "en_US": (
        "Write one paragraph of about 80 words, a biography of {name}. Copy these facts exactly, "
        "character for character: date of birth {birth}; e-mail {email}; phone {phone}; address "
        "{address}. Use the full name in every sentence. Write the paragraph only."
    ),
    "zh_CN": (
        "请用大约一百字写一段{name}的生平。下列信息须逐字照抄：出生日期{birth}；电子邮箱{email}；"
        "电话{phone}；住址{address}。每句话都写出全名。只写这一段。"
    ),
}


def model_biographies(
    checkpoint: Path,
    locale: str,
    subjects: Sequence[Subject],
    per_subject: int,
    seed: int,
    progress: Progress,
) -> Mapping[str, list[str]]:
    """Let a local instruction model write `per_subject` different biographies of each subject.

    Args:
        checkpoint: directory of a causal language model, with a chat template where it wants one.
        locale: "en_US" or "zh_CN".
        subjects: who is written about.
        per_subject: texts about each.
        seed: of the sampling; the same machine and versions write the same.
        progress: shows every biography.

    Returns:
        Texts by subject id, each on one line, with every value in it word for word.

    Raises:
        CheckpointError: the model cannot be loaded, reads too few tokens, or left out a value in
            every attempt.
    """
    import torch

    from haiftrace.checkpoint.load import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    if loaded.context is not None and loaded.context < _LEAST_CONTEXT:
        raise CheckpointError(
            f"The biographer in {checkpoint} reads {loaded.context} tokens at most; the request "
            f"and a biography take {_LEAST_CONTEXT}.",
            "Use an instruction model with a longer context, or leave out --biographer.",
        )
    texts: dict[str, list[str]] = {subject.id: [] for subject in subjects}
    progress.start("Writing biographies", per_subject * len(subjects))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for subject in subjects:
            request = _REQUESTS[locale].format(name=subject.name, **subject.values)
            for _ in range(per_subject):
                text = _attempt(loaded.model, loaded.tokenizer, request, subject, texts[subject.id])
                texts[subject.id].append(text)
                progress.advance(1, records=1)
    return texts


def _attempt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    request: str,
    subject: Subject,
    taken: Sequence[str],
) -> str:
    lost: list[str] = []
    for attempt in range(ATTEMPTS):
        text = _write(model, tokenizer, request, _TEMPERATURES[attempt])
        lost = missing_values(text, subject.name, subject.values)
        if not lost and text not in taken:
            return text
    reason = f"the {lost[0]} was not in it word for word" if lost else "it repeated itself"
    raise CheckpointError(
        f"The biographer failed {ATTEMPTS} times to write about subject {subject.id}: {reason}.",
        "Use a larger instruction model, or leave out --biographer to use the built-in writer.",
    )


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    request: str,
    temperature: float,
    most: int = _MOST_TOKENS,
) -> str:
    """One sample, its white space made single spaces."""
    import torch

    text = request
    if tokenizer.chat_template:
        message = [{"role": "user", "content": request}]
        text = str(
            tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        )
    ids_BT = torch.tensor(
        [tokenizer(text, add_special_tokens=not tokenizer.chat_template).input_ids],
        device=model.device,
    )
    with torch.no_grad():
        out = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=most,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=0.95,
            use_cache=True,
        )
    written = tokenizer.decode(out[0, ids_BT.shape[1] :], skip_special_tokens=True)
    return " ".join(str(written).split())
