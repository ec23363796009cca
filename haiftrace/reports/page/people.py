"""Whom a finding is about, as well as the report can tell."""

from __future__ import annotations

from haiftrace.findings import Finding
from haiftrace.reports.narrative import traced_to
from haiftrace.text.names import NAME, common_name, plain_name

_WORDS = (
    "Ask Call Can Contact Could Dear Did Do Does Email Find Give Has Have Hello Hi How Is Mail"
    " Please Question Reach Send Show Tell Text The User What When Where Which Who Whose Why Write"
)
_BEGINNINGS = frozenset(_WORDS.split())
"""Words with a capital that begin a question, and no name."""


def person_of(finding: Finding) -> str:
    """Whom the corpus says that the source is about, else whom the question names; or ""."""
    return stated_subject(finding) or named_person(finding)


def stated_subject(finding: Finding) -> str:
    """The group field's value of the source; or "". One that is masked tells nobody apart."""
    source = traced_to(finding)
    subject = None if source is None else source.subject
    return subject if subject and "•" not in subject else ""


def named_person(finding: Finding) -> str:
    """The name in what was asked, or in a source that holds the value; or "".

    A guess by its form. A name that the source states too counts before any other.
    """
    source = traced_to(finding)
    asked = finding.asked or finding.prompt
    names = [_without_beginning(plain_name(name)) for name in NAME.findall(asked)]
    names = [name for name in names if " " in name]
    if source is not None:
        stated = [name for name in names if name in source.text]
        if stated:
            return max(stated, key=stated.count)
    if names:
        return max(names, key=names.count)
    if source is not None and finding.kind == "verbatim":
        return common_name(source.text) or ""
    return ""


def _without_beginning(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if first in _BEGINNINGS else name
