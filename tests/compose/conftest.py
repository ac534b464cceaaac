"""The stack, created from nothing and removed after the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatehouse.client.profile import Profile
from tests.support.compose import ROOT, Host, compose, down, up


@pytest.fixture(scope="session")
def docker() -> None:
    """Docker and Compose v2; without them the run ends with one line."""
    found = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False
    )
    if not found or found.returncode != 0 or found.stdout.lstrip("v").startswith("1."):
        pytest.exit("tests/compose: needs Docker with Compose v2 (`docker compose version`)", returncode=1)
    daemon = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if daemon.returncode != 0:
        pytest.exit("tests/compose: the Docker daemon does not answer (`docker info`)", returncode=1)


@pytest.fixture(scope="session")
def stack(docker: None) -> Iterator[None]:
    """Everything healthy, with the one command of the documentation.

    `STACK=keep` uses a running stack and keeps it running, for work on these tests.
    """
    keep = os.environ.get("STACK") == "keep"
    if not keep:
        down()
    try:
        sys.stderr.write(f"\ndocker compose up --build --wait: {up('--build'):.0f} s\n")
        yield
    finally:
        if not keep:
            down()


@pytest.fixture
def host(stack: None, tmp_path: Path) -> Host:
    """The profile of the host, copied for each test: a stack that is created again has new secrets."""
    compose("cp", "setup:/run/setup/client/.", str(tmp_path))
    content = (tmp_path / "profile.json").read_bytes()
    profile = Profile.model_validate_json(content)
    return Host(tmp_path, profile.model_copy(update={"ca_file": tmp_path / "ca.crt"}))


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """Path of grpcurl."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/go_tools.py"), "grpcurl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.exit(f"tests/compose: {done.stderr.strip()}", returncode=1)
    return done.stdout.strip()
