"""What cannot be forked is refused in one line, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from tests.support.command import Command
from tests.support.repository_copy import ROOT, Copy
from tools.fork.names import MAX_LENGTH, OLD, Names, problem_of
from tools.fork.spelling import rename

# See pyproject.toml.
LINE_LENGTH = 110


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """This repository, with its changes committed."""
    return Copy(tmp_path_factory.mktemp("original") / "copy")


def fork(copy: Copy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a copy."""
    environment = os.environ | {"PYTHONPATH": f"{copy.folder / 'services'}:{copy.folder}"}
    command = [sys.executable, "-m", "tools.fork", *arguments]
    return subprocess.run(
        command, cwd=copy.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "a name is missing"),
        ("a", "use two or more"),
        ("Acme", "use two or more"),
        ("acme_billing", "use two or more"),
        ("acme--billing", "use two or more"),
        ("acme-", "use two or more"),
        ("-acme", "use two or more"),
        ("2acme", "use two or more"),
        ("acme billing", "use two or more"),
        ("acme/billing", "use two or more"),
        ("acme\n", "use two or more"),
        ("accén", "use two or more"),
        ("a" * 32, "32 characters"),
        ("gatehouse", "this project has this name"),
        ("class", "a keyword of Python"),
        ("match", "a keyword of Python"),
        ("message", "a reserved word of Protocol Buffers"),
        ("int32", "a reserved word of Protocol Buffers"),
        ("user", "a reserved word of PostgreSQL"),
        ("table", "a reserved word of PostgreSQL"),
        ("pg-billing", "use two or more"),
        ("otel", "other programs use"),
        ("email", "a Python package is called email"),
        ("test", "a Python package is called test"),
        ("grpc", "other programs use"),
        ("pydantic-settings", "a Python package is called pydantic_settings"),
        ("buf", "a Python package is called buf"),
        ("tools", "a Python package is called tools"),
        ("build", "a Python package is called build"),
        ("jaeger", "a container has this name"),
    ],
)
def test_name_is_refused(name: str, reason: str) -> None:
    assert problem_of(name, ROOT, SERVICES).startswith(reason)


@pytest.mark.parametrize("name", SERVICES)
def test_name_of_a_service_is_refused(name: str) -> None:
    assert problem_of(name, ROOT, SERVICES)


@pytest.mark.parametrize(
    "name", ["acme", "acme-billing", "acme-billing-api2", "b2b", "a" * 31, "my-gatehouse", "gatehouse2"]
)
def test_name_can_be_used(name: str) -> None:
    assert problem_of(name, ROOT, SERVICES) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from gatehouse.rpc import x", "from acme_billing.rpc import x"),
        (r'rf"gatehouse\.{name}"', r'rf"acme_billing\.{name}"'),
        ("package gatehouse.$name.v1;", "package acme_billing.$name.v1;"),
        ('ROOT / "services" / "gatehouse"', 'ROOT / "services" / "acme_billing"'),
        ('(SERVICES / "gatehouse").iterdir()', '(SERVICES / "acme_billing").iterdir()'),
        ('home / ".cache" / "gatehouse"', 'home / ".cache" / "acme-billing"'),
        ("import gatehouse", "import acme_billing"),
        ("python -m gatehouse demo", "python -m acme_billing demo"),
        ('"-m",\n    "gatehouse",', '"-m",\n    "acme_billing",'),
        ('{"buf", "gatehouse", "gatehouse_', '{"buf", "acme_billing", "acme_billing_'),
        ("`gatehouse demo`", "`acme-billing demo`"),
        ("gatehouse: the port", "acme-billing: the port"),
        ("gatehouse_users", "acme_billing_users"),
        ("GATEHOUSE_USERS__PORT", "ACME_BILLING_USERS__PORT"),
        (r"`(Gatehouse\w+)`", r"`(AcmeBilling\w+)`"),
        ("class GatehouseProcess:", "class AcmeBillingProcess:"),
        ("Gatehouse contributors", "Acme Billing contributors"),
        ("of a Gatehouse process", "of an Acme Billing process"),
        ("A `gatehouse` command", "An `acme-billing` command"),
        ("/realms/gatehouse/protocol", "/realms/acme-billing/protocol"),
        ("gatehouse-api", "acme-billing-api"),
        ("`((?:gatehouse|rpc)_", "`((?:acme_billing|rpc)_"),
        ('("production", "gatehouse")', '("production", "acme_billing")'),
        ('("gatehouse", ["production"', '("acme_billing", ["production"'),
        ("secrets:/run/gatehouse:ro", "secrets:/run/acme-billing:ro"),
        ("/run/gatehouse/users", "/run/acme-billing/users"),
        ("/opt/gatehouse/bin", "/opt/acme-billing/bin"),
        ("gatehouse-users.gatehouse.svc.cluster.local", "acme-billing-users.acme-billing.svc.cluster.local"),
        ("gatehouse-$name.gatehouse", "acme-billing-$name.acme-billing"),
        ('up{job=~"gatehouse.*"}', 'up{job=~"acme-billing.*"}'),
        ("postgres:5432/gatehouse?sslmode", "postgres:5432/acme_billing?sslmode"),
        ('        "-m",\n        "gatehouse",', '        "-m",\n        "acme_billing",'),
        ("CREATE DATABASE gatehouse", "CREATE DATABASE acme_billing"),
        ("database: gatehouse", "database: acme_billing"),
        ("//role@/gatehouse?host=a:5432", "//role@/acme_billing?host=a:5432"),
        (
            "f\"postgresql://{login}@127.0.0.1:{state['port']}/gatehouse\"",
            "f\"postgresql://{login}@127.0.0.1:{state['port']}/acme_billing\"",
        ),
        ("$(gatehouse token obtain)", "$(acme-billing token obtain)"),
        ("protos/gatehouse/users/v1", "protos/acme_billing/users/v1"),
    ],
)
def test_each_place_gets_its_spelling(text: str, expected: str) -> None:
    assert rename(text, Names("acme-billing")) == expected


def test_the_longest_name_wraps_no_line_whose_rules_are_switched_off() -> None:
    """The formatter would move the comment away from what it is about."""
    longest = Names("a" * MAX_LENGTH)
    wrapped = []
    for path in ROOT.glob("services/**/*.py"):
        for line in path.read_text().splitlines():
            code, pragma, _ = (
                line.partition("# noqa") if "# noqa" in line else line.partition("# type: ignore")
            )
            if pragma and OLD in code.lower() and len(rename(code.rstrip(), longest)) > LINE_LENGTH:
                wrapped.append(line)
    assert wrapped == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--name=class"], "class: a keyword of Python"),
        (["--name=acme", "--dir={tmp}"], "{tmp}: exists"),
        (["--name=acme", "--dir={tmp}/none/acme"], "{tmp}/none: no such folder"),
        (["--name=acme", "--dir=acme"], "{copy}/acme: inside this repository"),
        (["--name=acme", "--dir={tmp}/acme", "--without=nothing"], "WITHOUT=nothing: unknown; use some of "),
        (["--name=acme", "--dir={tmp}/acme", "--without=users"], "WITHOUT=users: the demo"),
        (["--name=acme", "--dir={tmp}/acme", "--without=testbed"], "WITHOUT=testbed: cannot be left out"),
        # <part admin>
        (
            ["--name=acme", "--dir={tmp}/acme", "--without=introspection"],
            "WITHOUT=introspection: admin needs",
        ),
        # </part admin>
    ],
)
def test_arguments_are_refused(copy: Copy, tmp_path: Path, arguments: list[str], reason: str) -> None:
    values = {"tmp": tmp_path, "copy": copy.folder}
    done = fork(copy, *(argument.format(**values) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(f"fork: {reason.format(**values)}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_changes_that_are_not_committed_are_refused(copy: Copy, tmp_path: Path) -> None:
    change = copy.folder / "new.txt"
    change.touch()
    done = fork(copy, "--name=acme", f"--dir={tmp_path / 'acme'}")
    change.unlink()
    assert done.returncode == 2
    assert done.stderr == f"fork: {copy.folder}: has changes that are not committed; commit or stash them\n"
    assert list(tmp_path.iterdir()) == []


def test_files_without_a_repository_of_their_own_are_refused(copy: Copy, tmp_path: Path) -> None:
    """As when they were downloaded, also into another repository."""
    hidden = copy.folder / ".git"
    hidden.rename(copy.folder.parent / "hidden")
    subprocess.run(["git", "init", "--quiet"], cwd=copy.folder.parent, check=True)
    done = fork(copy, "--name=acme", f"--dir={tmp_path / 'acme'}")
    shutil.rmtree(copy.folder.parent / ".git")
    (copy.folder.parent / "hidden").rename(hidden)
    assert done.returncode == 2
    assert done.stderr == (
        f"fork: {copy.folder}: not a git repository; clone it instead of downloading its files\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_folder_inside_the_repository_is_found_behind_a_link(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy.folder)
    done = fork(copy, "--name=acme", f"--dir={tmp_path / 'link/acme'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"fork: {tmp_path / 'link/acme'}: inside this repository")


def test_nothing_is_left_when_it_is_stopped(copy: Copy, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.fork", "--name=acme", f"--dir={tmp_path / 'acme'}"]
    environment = os.environ | {"PYTHONPATH": f"{copy.folder / 'services'}:{copy.folder}"}
    with Command[str](command, cwd=copy.folder, env=environment, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
