"""One test bed for all tests of this folder, with coverage of its process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import grpc
import grpc.aio
import pytest

from gatehouse_testbed.bed.client import Testbed, run_testbed
from tests.support.child_coverage import measured


@pytest.fixture(scope="session")
def gatehouse_session() -> Iterator[Testbed]:
    """Take the place of the plugin's fixture: the process is measured."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # not for other processes
            for name, value in measured(dict(os.environ)).items():
                patch.setenv(name, value)
            testbed = stack.enter_context(run_testbed())
        yield testbed


@pytest.fixture
async def channel(gatehouse: Testbed) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of a stock client to UserService."""
    credentials = grpc.ssl_channel_credentials(gatehouse.ca_file.read_bytes())
    async with grpc.aio.secure_channel(gatehouse.targets["users"], credentials) as opened:
        yield opened
