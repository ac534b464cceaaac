"""One contract for both issuers: `pytest tests/issuers --issuer keycloak` holds a real Keycloak to it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatehouse_testbed.issuer import load_realm, run_issuer
from tests.issuers.idp import Browser, Idp, no_cookies, open_embedded, open_in_keycloak
from tests.support.issuer import ADMIN_PASSWORD, REALM_FILE
from tests.support.oauth_fixtures import tls_context
from tools.keycloak import KeycloakError, RunningKeycloak, distribution, run_keycloak, warnings_in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--issuer",
        choices=("embedded", "keycloak"),
        default="embedded",
        help="which issuer tests/issuers runs against; keycloak needs KEYCLOAK_HOME and JAVA_HOME",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--issuer", default="embedded") == "keycloak":
        try:
            distribution(os.environ)
        except KeycloakError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what only the embedded issuer has."""
    embedded_only = collection_path.name.startswith("test_embedded")
    return True if embedded_only and config.getoption("--issuer") == "keycloak" else None


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """The address of an embedded issuer that all tests of this process share, as they would a Keycloak."""
    started, stop = threading.Event(), asyncio.Event()
    found: list[Any] = []

    async def run() -> None:
        async with run_issuer(load_realm(REALM_FILE, os.environ), admin_password=ADMIN_PASSWORD) as running:
            found.extend((running.base_url, asyncio.get_running_loop()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(30)
    yield found[0]
    found[1].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="session")
def keycloak() -> Iterator[RunningKeycloak]:
    """A Keycloak with the realm file, which all tests of this process share."""
    with run_keycloak(distribution(os.environ), REALM_FILE) as running:
        log = running.log_file.read_text(encoding="utf-8")
        assert "Realm 'gatehouse' imported" in log
        assert warnings_in(log) == []
        yield running


@pytest.fixture
async def idp(request: pytest.FixtureRequest) -> AsyncIterator[Idp]:
    """The issuer that the contract is held against."""
    embedded_one = request.config.getoption("--issuer", default="embedded") == "embedded"
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(cookies=no_cookies(), verify=tls_context(), trust_env=False, timeout=120)
        )
        if embedded_one:
            base_url = request.getfixturevalue("embedded")
            yield Idp(base_url, http, open_embedded, ADMIN_PASSWORD)
        else:
            base_url = request.getfixturevalue("keycloak").base_url
            yield Idp(base_url, http, open_in_keycloak, ADMIN_PASSWORD)


@pytest.fixture
def browser(idp: Idp) -> Browser:
    """A fresh browser."""
    return Browser(idp, idp.http)
