"""The console as a process on the whole system, and a Chromium without a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from gatehouse.client.profile import Profile
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.files import write_profile
from tests.browser.upstreams import serve_upstreams
from tests.support.chromium import open_chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of the system."""
    with open_chromium() as browser:
        yield browser


@contextmanager
def run_console(bed: Testbed, folder: Path, **changes: object) -> Iterator[str]:
    """Run a console of a test bed; what is yielded is its URL.

    Args:
        bed: The system to show.
        folder: Gets the profile.
        changes: Fields of the profile that differ.
    """
    profile = {"issuer": bed.issuer, "targets": bed.targets, "ca_file": bed.ca_file}
    secrets = {"passwords": bed.passwords, "clients": bed.clients}
    file = folder / "profile.json"
    write_profile(Profile.model_validate(profile | secrets | changes), file)
    command = [sys.executable, "-m", "gatehouse", "console", "--port", "0"]
    environment = os.environ | {"GATEHOUSE_PROFILE": str(file)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("console: ").strip()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def url(gatehouse_session: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a console."""
    folder = tmp_path_factory.mktemp("console")
    log = folder / "services.log"
    with (
        serve_upstreams(gatehouse_session, log) as upstream,
        run_console(
            gatehouse_session, folder, traces_url=upstream, prometheus_url=upstream, logs={"services": log}
        ) as url,
    ):
        yield url
