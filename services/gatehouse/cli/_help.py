"""The help of commands, from their docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import typer

from gatehouse.cli._errors import ExitCode
from gatehouse.cli._program import program_name


def set_help(app: typer.Typer, *, plain: bool) -> None:
    """Take the help of each command from its docstring, and its examples from the section `Examples:`.

    Args:
        app: The application, with all commands.
        plain: Whether typer prints plain text and not rich markup.
    """
    for command in app.registered_commands:
        text, _, examples = inspect.cleandoc(command.callback.__doc__ or "").partition("\nExamples:\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        command.short_help = command.help.partition("\n\n")[0]  # otherwise the list of commands cuts it
        lines = [line.replace("gatehouse ", f"{program_name()} ") for line in examples.split("\n") if line]
        command.epilog = _preformatted(["Examples:", *lines], plain=plain)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            set_help(group.typer_instance, plain=plain)


def tables(meanings: Mapping[ExitCode, str], variables: Mapping[str, str], *, plain: bool) -> str:
    """Return the table of exit codes, and that of environment variables."""
    codes = (f"  {code:<3}  {text}" for code, text in meanings.items())
    width = max(map(len, variables))
    names = (f"  {name:<{width}}  {text}" for name, text in variables.items())
    return "\n\n".join(
        _preformatted(lines, plain=plain)
        for lines in (["Exit codes:", *codes], ["Environment, besides the settings:", *names])
    )


def _preformatted(lines: Iterable[str], *, plain: bool) -> str:
    # The help formatter of typer joins the lines of a paragraph unless it starts with \b; rich does not.
    return "\n".join(["\b", *lines] if plain else lines)
