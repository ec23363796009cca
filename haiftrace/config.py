"""Settings from `haiftrace.toml`: flag > environment variable > this file > default.

```
[index]
model = "./ckpt"
corpus = ["data.jsonl"]

[trace]
top = 5

[bench.digits]
seeds = 3
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from haiftrace.errors import UsageError

CONFIG_NAME = "haiftrace.toml"


# A command's options, or a group's commands, each with its options.
Options = Mapping[str, "bool | Options"]


def read_config(path: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Options by command from a TOML file; nothing where the file does not exist.

    Args:
        path: the file.
        options: for each command the option names that it has, with underscores, and whether an
            option may be repeated. One that may takes a list, or a single value for a list of one.
            For a group of commands, the same of each.

    Raises:
        UsageError: the file is no TOML, names a command or option that does not exist, or gives
            several values to an option that takes one.
    """
    import tomllib

    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Correct or remove it.") from None
    return _commands(path, content, options, ())


def _commands(
    path: Path, content: Mapping[str, Any], options: Options, group: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """The tables of the commands of a group; of the program itself for an empty `group`."""
    settings: dict[str, dict[str, Any]] = {}
    for command, values in content.items():
        name = (*group, command)
        command_options = options.get(command)
        if not isinstance(command_options, Mapping) or not isinstance(values, dict):
            raise UsageError(
                f"{path} has '{'.'.join(name)}', which is no table of a command.",
                f"Its tables are {', '.join(_tables(options, group))}.",
            )
        read = _commands if _is_group(command_options) else _values
        settings[command] = read(path, values, command_options, name)
    return settings


def _is_group(options: bool | Options) -> TypeGuard[Options]:
    """Whether these are the commands of a group, not the options of a command."""
    return isinstance(options, Mapping) and any(isinstance(o, Mapping) for o in options.values())


def _tables(options: Options, group: tuple[str, ...]) -> Iterator[str]:
    for name, entry in options.items():
        if _is_group(entry):
            yield from _tables(entry, (*group, name))
        else:
            yield f"[{'.'.join((*group, name))}]"


def _values(
    path: Path, values: Mapping[str, Any], options: Options, command: tuple[str, ...]
) -> dict[str, Any]:
    """The option values of one command's table."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        place = f"{path} sets '{key}' in [{'.'.join(command)}]"
        if name not in options:
            raise UsageError(
                f"{place}, which that command does not have.",
                f"See `haiftrace {' '.join(command)} --help` for its options.",
            )
        repeatable = options[name]
        if isinstance(value, dict) or (isinstance(value, list) and not repeatable):
            raise UsageError(f"{place} to several values, but it takes one.", "Keep one.")
        listed = repeatable and not isinstance(value, list)
        settings[name] = [value] if listed else value
    return settings
