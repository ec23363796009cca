"""Settings from `haiftrace.toml`: flag > environment variable > this file > default.

```
[index]
model = "./ckpt"
corpus = ["data.jsonl"]

[trace]
top = 5
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haiftrace.errors import UsageError

CONFIG_NAME = "haiftrace.toml"


Options = Mapping[str, Mapping[str, bool]]


def read_config(path: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Options by command from a TOML file; nothing where the file does not exist.

    Args:
        path: the file.
        options: for each command the option names that it has, with underscores, and whether an
            option may be repeated. One that may takes a list, or a single value for a list of one.

    Raises:
        UsageError: the file is no TOML, names a command or option that does not exist, or gives
            several values to an option that takes one.
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
            raise UsageError(
                f"{path} has '{command}', which is no table of a command.",
                f"Its tables are {known}.",
            )
        settings[command] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            place = f"{path} sets '{key}' in [{command}]"
            if name not in options[command]:
                raise UsageError(
                    f"{place}, which that command does not have.",
                    f"See `haiftrace {command} --help` for its options.",
                )
            repeatable = options[command][name]
            if isinstance(value, dict) or (isinstance(value, list) and not repeatable):
                raise UsageError(f"{place} to several values, but it takes one.", "Keep one.")
            listed = repeatable and not isinstance(value, list)
            settings[command][name] = [value] if listed else value
    return settings
