"""The console as a process on the whole system, and a Chromium without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from gatehouse.client.profile import Profile
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.files import write_profile

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of the system."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    assert program is not None, "install Chromium or Chrome, such as with apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root.
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def url(gatehouse_session: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a console."""
    file: Path = tmp_path_factory.mktemp("console") / "profile.json"
    bed = gatehouse_session
    profile = {"issuer": bed.issuer, "targets": bed.targets, "ca_file": bed.ca_file}
    secrets = {"passwords": bed.passwords, "clients": bed.clients}
    write_profile(Profile.model_validate(profile | secrets), file)
    command = [sys.executable, "-m", "gatehouse", "console", "--port", "0"]
    environment = os.environ | {"GATEHOUSE_PROFILE": str(file)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("console: ").strip()
        finally:
            process.terminate()
