"""The page's own style and script, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


def asset(name: str) -> str:
    """The text of a template, of the style or of the script."""
    return files("haiftrace.reports").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def policy() -> str:
    """The Content-Security-Policy: this style and this script by their hashes, and nothing else."""
    return (
        f"default-src 'none'; style-src {_hash(asset('report.css'))};"
        f" script-src {_hash(asset('report.js'))}; form-action 'none'; base-uri 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
