"""A service can be deleted and added, for real, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Copy:
    """A copy of the repository that uses the installed dependencies.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        subprocess.run(["git", "add", "--all"], cwd=folder, check=True)

    def run(self, *command: str) -> str:
        """Run a command in the copy and return its output; it must succeed."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("GATEHOUSE_", "COV_"))}
        environment |= {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'services'}:{self.folder}",
        }
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def make(self, *arguments: str) -> str:
        """Run make with the installed environment instead of one of its own."""
        return self.run("make", "--assume-old=install", f"VENV={BIN.parent}", *arguments)

    def check(self) -> str:
        """Run lint and the demo, and return the policy."""
        self.make("lint")
        demo = self.run(sys.executable, "-m", "gatehouse", "demo")
        assert re.search(r"(\d+) of \1 ", demo), demo
        return self.run(sys.executable, "-m", "gatehouse", "policy")

    def edit(self, name: str, pattern: str, replacement: str) -> None:
        """Replace the one place in a file that matches."""
        path = self.folder / name
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert count == 1, f"{name}: {pattern} matches {count} times"
        path.write_text(text)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def test_a_service_is_removed_by_the_deletions_that_the_architecture_page_lists(copy: Copy) -> None:
    for folder in (
        "services/gatehouse/public",
        "protos/gatehouse/public",
        "migrations/public",
        "tests/public",
    ):
        shutil.rmtree(copy.folder / folder)
    copy.edit("services/gatehouse/app/packages.py", r'    "gatehouse\.public",\n', "")
    copy.edit("docker-compose.yml", r"\n  public:\n.*?\n(?=\n  \w|\n  #)", "")
    copy.edit("docker-compose.yml", r'      - "[^"]*:50053"\n', "")
    for file in (copy.folder / "deploy/kubernetes").glob("*/*/services/public.env"):
        file.unlink()
    copy.make("manifests")

    policy = copy.check()

    assert "PublicService" not in policy
    assert "UserService/GetUser" in policy
    tests = ("tests/users/test_service.py", "tests/storage", "tests/project/test_kubernetes.py")
    copy.run(sys.executable, "-m", "pytest", "-q", *tests)


def test_a_service_is_added_by_one_command(copy: Copy) -> None:
    copy.make("new-service", "NAME=billing")

    policy = copy.check()

    assert "BillingService/ListBillingEntries" in policy
    tests = ("tests/billing", "tests/storage", "tests/project/test_kubernetes.py")
    assert "passed" in copy.run(sys.executable, "-m", "pytest", "-q", *tests)


@pytest.mark.parametrize("name", ["users", "class", "Billing", "a", "server", "with-dash", "2nd"])
def test_a_name_that_cannot_be_used_changes_nothing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "tools/new_service.py", name],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"new-service: {name}: ")
    assert done.stderr.count("\n") == 1
    status = subprocess.run(
        ["git", "status", "--porcelain", "services", "protos"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"/{name.lower()}/" not in status.stdout
