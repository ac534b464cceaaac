"""The files around the code agree with each other."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_license_is_the_unmodified_text_of_apache_2() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_ci_tests_every_python_that_the_package_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.search(r"python: \[(.+)\]", workflow)
    assert matrix is not None
    assert re.findall(r'"([\d.]+)"', matrix[1]) == supported
    assert project["requires-python"] == f">={supported[0]}"


@pytest.mark.parametrize(
    "command",
    [
        "make test",
        "make test-testbed",
        "make lint",
        "make lint-deploy",
        "make test-upgrade",
        # <part chaos>
        "make chaos QUICK=1",
        # </part chaos>
        # <part interop>
        "make test-interop",
        # </part interop>
        # <part console>
        "make test-browser",
        # </part console>
        "make docs",
        "make test-keycloak",
        "make test-compose",
    ],
)
def test_workflows_and_ci_script_run_the_same_targets(command: str) -> None:
    assert f"- run: {command}\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert f"part {command}\n" in (ROOT / ".ci" / "run").read_text()


# <part interop>
def test_lock_file_of_the_node_client_has_hashes_and_no_address_of_a_registry() -> None:
    """npm adds addresses unless `omit-lockfile-registry-resolved` is set, as in the folder's .npmrc."""
    lock = json.loads((ROOT / "tests" / "interop" / "node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [
        name for name, package in packages.items() if not package["integrity"].startswith("sha512-")
    ] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


# </part interop>
@pytest.mark.parametrize(
    ("found", "missing"),
    [
        ([], "set KEYCLOAK_HOME to the folder of Keycloak"),
        (["KEYCLOAK_HOME"], "set JAVA_HOME to the folder of a JDK"),
        (["KEYCLOAK_HOME", "JAVA_HOME"], "start Docker"),
    ],
)
def test_ci_script_names_what_is_missing_before_it_starts(
    found: list[str], missing: str, tmp_path: Path
) -> None:
    (tmp_path / "project" / ".ci").mkdir(parents=True)
    for name in (".ci/run", ".env"):
        shutil.copy(ROOT / name, tmp_path / "project" / name)
    for program in ("kc.sh", "java"):
        path = tmp_path / "tools" / "bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    commands = tmp_path / "bin"
    commands.mkdir()
    for program in ("bash", "dirname", "sed"):
        located = shutil.which(program)
        assert located is not None
        (commands / program).symlink_to(located)
    environment = {"PATH": str(commands)} | {name: str(tmp_path / "tools") for name in found}

    done = subprocess.run(
        [commands / "bash", ".ci/run"],
        cwd=tmp_path / "project",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"\.ci/run: {re.escape(missing)}.*\n", done.stderr)
