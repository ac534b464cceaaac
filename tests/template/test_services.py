"""Services and RPCs are removed and added by commands, for real, in a copy of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository_copy import ROOT, Copy


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def listed(output: str) -> list[str]:
    """Return the files that a command says it wrote or changed."""
    return sorted(re.findall(r"^(?:wrote|changed) +(\S+)$", output, re.MULTILINE))


def changes(copy: Copy) -> list[str]:
    """Return the files that differ from the index."""
    return sorted(copy.run("git", "ls-files", "--modified", "--others", "--exclude-standard").split())


def test_a_service_is_removed_and_a_service_and_rpcs_are_added_by_commands(copy: Copy) -> None:
    """One copy for all, because lint and demo take most of the time."""
    copy.make("remove", "NAME=public")
    # <part console>
    copy.make("remove", "NAME=console")
    # </part console>
    copy.run("git", "add", "--all")
    assert listed(copy.make("new-service", "NAME=billing", "RESOURCE=bill")) == changes(copy)
    copy.make("new-rpc", "SERVICE=users", "NAME=RenameUser")
    copy.make("new-rpc", "SERVICE=billing", "NAME=CloseBill")
    copy.make("new-rpc", "SERVICE=billing", "NAME=ImportBills", "STREAM=requests")
    copy.make("new-rpc", "SERVICE=billing", "NAME=WatchBills", "STREAM=responses")
    copy.make("new-rpc", "SERVICE=users", "NAME=TrackUsers", "STREAM=both")

    policy = copy.check()

    assert "PublicService" not in policy
    for rpc in ("BillingService/ListBills", "BillingService/CloseBill", "UserService/RenameUser"):
        assert rpc in policy
    assert re.search(r"ImportBills +client_streaming(.*\n)+.*WatchBills +server_streaming", policy)
    assert re.search(r"TrackUsers +bidi_streaming", policy)
    tests = (
        "tests/users/test_service.py",
        "tests/users/test_rename_user.py",
        "tests/users/test_track_users.py",
        "tests/billing",
        "tests/storage",
        # <part kubernetes>
        "tests/project/test_kubernetes.py",
        # </part kubernetes>
    )
    assert "passed" in copy.run(sys.executable, "-m", "pytest", "-q", *tests)
    matrix = (
        "tests/system/test_matrix.py",
        "-k",
        "RenameUser or CloseBill or ImportBills or WatchBills or TrackUsers or table",
    )
    assert "passed" in copy.run(sys.executable, "-m", "pytest", "-q", *matrix)
    copy.edit(
        "services/gatehouse/billing/service.py",
        r"(?<=return pb.CloseBillResponse\(note=)request.note",
        "{}['x']",
    )
    failed = copy.run("bash", "-c", f"! {sys.executable} -m pytest -q tests/billing/test_close_bill.py")
    assert re.search(
        r"error_at=gatehouse\.billing\.service\.CloseBill:\d+ .*error_type=builtins.KeyError", failed
    )


def test_an_rpc_is_at_most_30_lines_in_5_files_by_hand(copy: Copy) -> None:
    assert listed(copy.make("new-rpc", "SERVICE=users", "NAME=RenameUser")) == changes(copy)

    stubs = ":(exclude,glob)services/gatehouse/*/v1/**"
    changed = copy.run("git", "diff", "--numstat", "--", ".", stubs)
    added = copy.run("git", "ls-files", "--others", "--exclude-standard", "--", ".", stubs).split()
    by_hand = [line.split() for line in changed.splitlines()]
    assert len(by_hand) + len(added) <= 5
    assert added == ["tests/users/test_rename_user.py"]
    assert sum(int(inserted) for inserted, *_ in by_hand) <= 30


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nothing", "RenameUser"), "SERVICE=nothing: no such service; use one of "),
        (("users", "rename_user"), "NAME=rename_user: use a verb and a noun"),
        (("users", "Rename"), "NAME=Rename: use a verb and a noun"),
        (("users", ""), "NAME=: use a verb and a noun"),
        (("users", "RenameUser", "--stream=all"), "STREAM=all: use one of requests, responses, both"),
        (("users", "GetUser"), "NAME=GetUser: protos/gatehouse/users/v1/users.proto defines GetUser"),
    ],
)
def test_an_rpc_that_cannot_be_added_changes_nothing(arguments: tuple[str, str], problem: str) -> None:
    done = subprocess.run(
        [sys.executable, "tools/new_rpc.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"new-rpc: {problem}")
    assert done.stderr.count("\n") == 1


def test_a_service_that_other_files_import_is_not_removed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.remove", "users"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"remove: users: \d+ files outside of its folders import it, such as \S+\.py; change them .*\n",
        done.stderr,
    )
    assert (ROOT / "services/gatehouse/users/spec.py").exists()


@pytest.mark.parametrize(
    ("name", "resource"),
    [(name, "") for name in ("", "users", "class", "Billing", "a", "server", "with-dash", "2nd")]
    + [("billing", resource) for resource in ("Invoice", "line_item", "class", "none", "user")],
)
def test_a_name_that_cannot_be_used_changes_nothing(name: str, resource: str) -> None:
    done = subprocess.run(
        [sys.executable, "tools/new_service.py", name, resource],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    given = f"RESOURCE={resource}" if resource else f"NAME={name}"
    assert done.stderr.startswith(f"new-service: {given}: ")
    assert done.stderr.count("\n") == 1
    status = subprocess.run(
        ["git", "status", "--porcelain", "services", "protos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"/{name.lower()}/" not in status.stdout
