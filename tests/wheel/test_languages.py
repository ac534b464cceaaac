"""The examples in other languages pass: the commands of their README, with the `gatehouse` of the wheel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.toolchains import Missing, cached, find_tool, npm_ci
from tests.wheel.conftest import ROOT, Project

# The tools of each example, what the message about a missing one says, and what a passed run prints.
LANGUAGES = {
    "go": (("go",), "Go 1.26 or later", r"^--- PASS", 3),
    "node": (("node", "npm"), "Node 20 or later, with npm", r"^. pass 3$", 1),
    "java": (
        ("java", "mvn"),
        "a JDK 17 or later, and Maven",
        r"Tests run: 3, Failures: 0, Errors: 0, Skipped: 0$",
        1,
    ),
}
# The tests of this folder install these.
INSTALLED = ("pip install ", "npm ci")
SECONDS = 300


def commands(folder: Path) -> list[str]:
    """Return the commands of the README of an example, without the installation."""
    block = re.search(r"^```sh\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if not line.startswith(INSTALLED)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_passes_in_language(language: str, project: Project, tmp_path: Path) -> None:
    tools, needs, passed, count = LANGUAGES[language]
    source = ROOT / "examples/testbed" / language
    folder = tmp_path / language
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules", "target", "*.protoset"))
    try:
        found = {name: find_tool(name, needs) for name in tools}
        if language == "node":
            lock = [source / "package.json", source / "package-lock.json"]
            packages = cached("testbed-node", lock, lambda made: npm_ci(made, found["npm"]))
            (folder / "node_modules").symlink_to(packages / "node_modules")
    except Missing as error:
        raise pytest.fail.Exception(f"examples/testbed/{language}: {error}", pytrace=False) from None
    environment = os.environ | {
        "PATH": f"{project.programs}{os.pathsep}{os.environ['PATH']}",
        "GOWORK": "off",
    }
    output = ""
    for command in commands(source):
        done = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{output}"
    assert len(re.findall(passed, output, re.MULTILINE)) == count, output
