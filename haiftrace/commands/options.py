"""Options that several commands share, and how all of them are declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial, wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer

from haiftrace.commands.index_location import index_directory, with_stores_named
from haiftrace.commands.panels import EXPERT

# Every option has an environment variable; the epilog says how it is named, once for all.
Option = partial(typer.Option, show_envvar=False)

IndexOption = partial(Option, parser=index_directory, metavar="PATH")
"""An option whose value is the directory of an index."""


def variables(command: str) -> dict[str, str]:
    """Context settings for a command's environment variables, such as HAIFTRACE_TRACE_TOP.

    Only commands have them: HAIFTRACE_VERSION in a container says something else.
    """
    return {"auto_envvar_prefix": f"HAIFTRACE_{command}"}


Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=EXPERT)]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No talk on stderr but errors.")]
Memory = Annotated[
    int,
    Option(help="Megabytes that a backward pass may take, about.", min=1, rich_help_panel=EXPERT),
]


@dataclass(frozen=True)
class RunOptions:
    """Where and how a command runs."""

    memory: Memory = 512
    device: Device = "auto"
    quiet: Quiet = False

    @property
    def memory_bytes(self) -> int:
        """`--memory` in bytes."""
        return self.memory << 20


def shown(text: str) -> str:
    """A line for the user: no character of a path in it steers a terminal, no value is shown."""
    from haiftrace.privacy import mask_detected
    from haiftrace.reports.sanitize import inert

    return inert(mask_detected(with_stores_named(text)))


def grouped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameters that are dataclasses are options of their own, a field each.

    Typer sees one parameter an option; the function is given each group as one value.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _parameters_of(kind)
        else:
            parameters.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            )

    @wraps(function)
    def command(**values: Any) -> Any:
        options = {
            name: group(
                **{
                    field.name: values.pop(field.name)
                    for field in fields(group)
                    if field.name in values
                }
            )
            for name, group in groups.items()
        }
        return function(**values, **options)

    del command.__wrapped__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters_of(group: type) -> list[inspect.Parameter]:
    """A parameter a field, in the panel of its own or else in the group's.

    A group may have `PANEL`, the heading of its options in the help, and `COMMON`, the names of
    those that stand before all panels.
    """
    hints = get_type_hints(group, include_extras=True)
    panel, common = getattr(group, "PANEL", None), getattr(group, "COMMON", ())
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=_in_panel(hints[field.name], None if field.name in common else panel),
        )
        for field in fields(group)
    ]


def _in_panel(annotation: Any, panel: str | None) -> Any:
    """The annotation of an option, in a panel where it has none of its own."""
    kind, option = get_args(annotation)
    option = copy(option)  # several commands share it
    option.rich_help_panel = option.rich_help_panel or panel
    return Annotated[kind, option]
