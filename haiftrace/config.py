"""Settings from `haiftrace.toml`: flag > environment variable > this file > default.

    [index]
    model = "./ckpt"
    corpus = ["data.jsonl"]

    [trace]
    top = 5
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haiftrace.errors import UsageError

CONFIG_NAME = "haiftrace.toml"


def read_config(path: Path, options: Mapping[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Options by command from a TOML file; nothing where the file does not exist.

    Args:
        path: the file.
        options: for each command the option names that it has, with underscores.

    Raises:
        UsageError: the file is no TOML, or names a command or option that does not exist.
    """
    import tomllib

    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Correct or remove it.") from None
    settings: dict[str, dict[str, Any]] = {}
    for command, values in content.items():
        if command not in options or not isinstance(values, dict):
            known = ", ".join(f"[{name}]" for name in options)
            raise UsageError(f"{path} has '{command}', which is no table of a command.", f"Its tables are {known}.")
        settings[command] = {key.replace("-", "_"): value for key, value in values.items()}
        unknown = sorted(set(settings[command]) - options[command])
        if unknown:
            raise UsageError(
                f"{path} sets '{unknown[0]}' in [{command}], which that command does not have.",
                f"See `haiftrace {command} --help` for its options.",
            )
    return settings
