"""The services with reflection, and the clients in other languages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gatehouse.app.protos import descriptor_set
from tests.interop.foreign import ForeignClient, build_go, build_node
from tests.support.system import System, issuer_url, run_system
from tests.support.toolchains import Missing
from tools import go_tools

BUILD = {"go": build_go, "node": build_node}


@pytest.fixture(scope="session")
def commands() -> dict[str, list[str | Path]]:
    """The command of each client; without Go or Node the run ends with one line."""
    try:
        return {language: build() for language, build in BUILD.items()}
    except Missing as error:
        pytest.exit(f"tests/interop: {error}", returncode=1)


@pytest.fixture(scope="session")
def grpcurl(commands: object) -> str:
    """Path of grpcurl."""
    del commands  # they report a missing Go first
    try:
        return str(go_tools.find_or_install("grpcurl"))
    except SystemExit as error:
        pytest.exit(f"tests/interop: {error}", returncode=1)


@pytest.fixture(scope="session")
def system(commands: object, grpcurl: str) -> Iterator[System]:
    """The whole system, with reflection."""
    del commands, grpcurl  # build before the services start
    with run_system(GATEHOUSE_SERVER__REFLECTION="true") as running:
        yield running


@pytest.fixture(scope="session")
def protoset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `gatehouse protos` writes."""
    file = tmp_path_factory.mktemp("protos") / "gatehouse.protoset"
    file.write_bytes(descriptor_set().SerializeToString())
    return file


@pytest.fixture(scope="session")
def clients(
    commands: dict[str, list[str | Path]], system: System, protoset: Path
) -> Iterator[dict[str, ForeignClient]]:
    """A running client of each language."""
    flags = {
        "ca": system.ca_file,
        "protoset": protoset,
        "issuer": issuer_url(system.issuer_ports["issuer"]),
    }
    environment = os.environ | {"NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1"}
    with ExitStack() as stack:
        yield {
            language: stack.enter_context(
                ForeignClient(
                    [*command, *(f"--{name}={value}" for name, value in flags.items())], environment
                )
            )
            for language, command in commands.items()
        }


@pytest.fixture(params=BUILD)
def foreign(request: pytest.FixtureRequest, clients: dict[str, ForeignClient]) -> ForeignClient:
    """The client of each language in turn."""
    return clients[request.param]
