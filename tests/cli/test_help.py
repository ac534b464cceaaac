"""Help and tables: on a terminal, in a pipe, without color, in any encoding."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gatehouse.app.services import SERVICES
from gatehouse.cli import make_app
from gatehouse.cli._errors import MEANINGS
from gatehouse.cli._program import program_name
from tests.support.cli import Cli, clean_environment, start

ESCAPE = "\x1b["
BIN = Path(sys.executable).parent


def paths(group: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command as the words that are typed."""
    commands: dict[str, object] = getattr(group, "commands", {})
    if not commands:
        return [prefix]
    return [path for name, command in commands.items() for path in paths(command, (*prefix, name))]


COMMANDS = paths(typer.main.get_command(make_app()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_explains_its_arguments_and_has_examples(
    cli: Cli, command: tuple[str, ...]
) -> None:
    done = cli(*command, "--help")
    description, _, examples = done.out.partition("Examples:\n")

    assert (done.code, done.err) == (0, "")
    usage, _, explained = description.partition("\n\n")
    for argument in re.findall(r"[\[{](\w+)[\]}]", usage.replace("[OPTIONS]", "")):
        assert re.search(rf"^  {argument}\b", explained, re.MULTILINE)
    lines = examples.splitlines()
    assert len(lines) >= 1
    assert all(f"{program_name()} {' '.join(command)}" in line for line in lines)
    if command[0] in {"call", "doctor", "healthcheck", "serve"}:
        # A service of an example may have been removed.
        services = [re.search(rf"{command[0]} ([a-z].*?)(?= --| [A-Z]|$)", line) for line in lines]
        assert {name for found in services if found for name in found[1].split()} <= SERVICES.keys()


@pytest.mark.parametrize("arguments", [["--help"], []], ids=["--help", "no arguments"])
def test_help_lists_commands_and_exit_codes(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)

    assert (done.code, done.err) == (0, "")
    for command in COMMANDS:
        assert command[0] in done.out
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code} +{meaning}$", done.out, re.MULTILINE)


def test_exit_codes_and_examples_do_not_wrap_on_a_terminal_of_80_columns(cli: Cli) -> None:
    on_path = f"{BIN}:{os.environ['PATH']}"
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cli.on_terminal("--help", PATH=on_path))
    call = re.sub(r"\x1b\[[0-9;]*m", "", cli.on_terminal("call", "--help", PATH=on_path))

    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code} +{meaning} *$", shown, re.MULTILINE)
    assert re.search(r"^ +GATEHOUSE_PROFILE +JSON file .*: the profile *$", shown, re.MULTILINE)
    examples = [line.strip() for line in call.partition("Examples:")[2].splitlines()]
    assert len([line for line in examples if line.startswith("gatehouse call ")]) == 5
    assert len([line for line in examples if line]) == 5
    assert "╭" in call


def test_terminal_shows_color_and_a_pipe_plain_text(cli: Cli) -> None:
    out = cli("policy").out

    assert ESCAPE not in out
    assert "│" not in out
    assert re.search(r"^gatehouse\.users\.v1\.UserService/GetUser +unary +read:users$", out, re.MULTILINE)
    shown = cli.on_terminal("policy", columns=120)
    assert ESCAPE in shown
    assert "│ gatehouse.users.v1.UserService/GetUser " in shown


def test_color_is_off_with_no_color(cli: Cli) -> None:
    shown = cli.on_terminal("policy", columns=120, NO_COLOR="1", FORCE_COLOR="1")
    assert ESCAPE not in shown
    assert "│" in shown
    assert ESCAPE not in cli.on_terminal("--help", NO_COLOR="1")


def test_color_is_forced_into_a_pipe(cli: Cli) -> None:
    variables = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert ESCAPE in cli("policy", **variables).out
    with start("--help", **variables) as process:  # typer reads the variable when it is imported
        assert ESCAPE in process.communicate(timeout=60)[0]


def test_help_does_not_cut_summaries() -> None:
    with start("--help", COLUMNS="80", TERMINAL_WIDTH="wide") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "..." not in out.replace("[ARGS]...", "")
    assert "in several that share the ports." in " ".join(out.split())


def test_dumb_terminal_shows_plain_text(cli: Cli) -> None:
    for arguments in (["policy"], ["call", "--help"]):
        shown = cli.on_terminal(*arguments, TERM="dumb")
        assert ESCAPE not in shown
        assert "│" not in shown


@pytest.mark.parametrize("columns", [40, 200])
def test_no_value_is_cut_however_narrow_the_terminal(cli: Cli, columns: int) -> None:
    shown = cli.on_terminal("config", "--describe", columns=columns, NO_COLOR="1")
    text = re.sub(r"\x1b\[[0-9;]*m|[\s│]", "", shown)

    assert "GATEHOUSE_SERVER__MAX_CONNECTION_AGE_GRACE_SECONDS" in text
    assert '"postgresql://postgres@127.0.0.1:5432/gatehouse"' in text
    assert "…" not in text


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_is_ascii_if_the_encoding_requires_it(cli: Cli, encoding: str) -> None:
    done = cli("config", "--describe", PYTHONIOENCODING=encoding)
    assert (done.code, done.err, done.out.isascii()) == (0, "", True)
    assert "GATEHOUSE_SERVER__HOST" in done.out
    for arguments in (["policy"], ["--help"]):
        shown = cli.on_terminal(*arguments, columns=200, PYTHONIOENCODING=encoding)
        assert shown.isascii()


def test_drawings_become_ascii_if_the_encoding_lacks_them() -> None:
    with start("healthcheck", "└─ ✓ … €", PYTHONIOENCODING="ascii") as process:
        _, err = process.communicate(timeout=60)
    assert r"gatehouse: `- + ... \u20ac: unknown service" in err


def test_character_that_the_encoding_lacks_is_escaped(cli: Cli) -> None:
    sources = cli("config", "--sources", PYTHONIOENCODING="ascii", GATEHOUSE_SERVER__HOST="zürich")
    assert r"z\u00fcrich" in sources.out
    assert r"/z\xfcrich" in cli("config", PYTHONIOENCODING="ascii", GATEHOUSE_SECRETS_DIR="/zürich").err


def name_of_program(command: list[str], path: str, folder: Path) -> str:
    """Return how a program that is run in a folder with this PATH names itself in its examples."""
    done = subprocess.run(
        [*command, "healthcheck", "--help"],
        env=clean_environment() | {"PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.partition("Examples:\n")[2].split(" healthcheck")[0].strip()


def test_printed_commands_work_in_the_shell_of_the_user(tmp_path: Path) -> None:
    root = BIN.parents[1]
    program, relative = str(BIN / "gatehouse"), str((BIN / "gatehouse").relative_to(root))
    on_path, not_on_path = f"{BIN}:/usr/bin", "/usr/bin"

    assert name_of_program([program], on_path, root) == "gatehouse"
    assert name_of_program([program], not_on_path, root) == relative
    assert name_of_program([program], not_on_path, tmp_path) == program
    # `make` runs .venv/bin/gatehouse with another PATH than that of the user.
    assert name_of_program([relative], on_path, root) == relative
    assert name_of_program([sys.executable, "-m", "gatehouse"], not_on_path, root) == relative
    assert name_of_program([sys.executable, "-m", "gatehouse"], on_path, root) == "gatehouse"


def test_error_names_the_command_that_works_in_the_shell_of_the_user(cli: Cli) -> None:
    assert f"see `{program_name()} --help`" in cli("cal").err


def test_healthcheck_imports_no_server_and_no_console() -> None:
    with start("healthcheck", "users", "--timeout", "1", PYTHONPROFILEIMPORTTIME="1") as process:
        _, err = process.communicate(timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if "import time:" in line}

    assert "gatehouse.client.health" in imported
    packages = {name.split(".")[0] for name in imported}
    assert not packages & {"rich", "httpx", "sqlalchemy", "structlog", "opentelemetry", "cryptography", "jwt"}
    assert not {name for name in imported if name.startswith(("gatehouse.rpc", "gatehouse.oauth"))}


def test_status_of_a_check_is_colored_on_a_terminal(cli: Cli) -> None:
    for columns in (60, 200):  # with and without a table
        shown = cli.on_terminal(
            "doctor", list(SERVICES)[-1], columns=columns, GATEHOUSE_TLS__PLAINTEXT="true"
        )
        assert "\x1b[1;31mfailed\x1b[0m" in shown
        assert "\x1b[32mok" in shown


def test_command_works_with_closed_streams_in_a_removed_folder(tmp_path: Path) -> None:
    """As a process may start it: no file may take the number of a closed stream."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD"; exec "$0" -m gatehouse policy <&- >&- 2>&-'
    environment = clean_environment() | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", script, sys.executable], cwd=gone, env=environment, check=False)
    assert done.returncode == 0
    assert not gone.exists()
