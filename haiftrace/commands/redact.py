"""`haiftrace redact`: a corpus without the records that a trace or an audit named."""

from __future__ import annotations

from typing import Annotated

import typer

from haiftrace.commands.options import Option, shown


def redact(
    corpus: Annotated[
        str | None, Option(help="The corpus file that was indexed: a record a line.")
    ] = None,
    sources: Annotated[
        str | None, Option(help="What `haiftrace trace --sources FILE` wrote.")
    ] = None,
    output: Annotated[
        str | None, Option("--output", "-o", help="Where the new corpus goes; never in place.")
    ] = None,
    mask: Annotated[
        bool, Option("--mask", help="Mask the values where they stand, and keep the record.")
    ] = False,
    text_field: Annotated[str, Option(help="Field of a record's text.")] = "text",
) -> None:
    """Write a corpus without the records that leak: dropped, or their values masked.

    \b
    haiftrace trace --prompts probes.jsonl --sources sources.jsonl
    haiftrace redact --corpus data.jsonl --sources sources.jsonl -o clean.jsonl
    haiftrace redact --corpus data.jsonl --sources sources.jsonl -o clean.jsonl --mask
    """
    for name, value in (("corpus", corpus), ("sources", sources), ("output", output)):
        if value is None:
            raise typer.BadParameter(f"Missing option '--{name}'.")
    assert corpus is not None
    assert sources is not None
    assert output is not None
    from haiftrace.auditing.redaction import redact as redact_corpus
    from haiftrace.auditing.sources import read_sources
    from haiftrace.reports.formatting import count_text

    outcome = redact_corpus(corpus, read_sources(sources), output, mask=mask, text_field=text_field)
    changed = [
        f"{count_text(count, 'record')} {what}"
        for count, what in ((outcome.dropped, "dropped"), (outcome.masked, "masked"))
        if count
    ]
    left = count_text(outcome.left, "record")
    print(shown(f"{output}: {' and '.join(changed)}, {left} as before."))
