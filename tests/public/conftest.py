"""PublicService on a real database and a real server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from gatehouse.app.policy import load_policy
from gatehouse.public.repository import NoticeRepository
from gatehouse.public.service import PublicService
from gatehouse.public.v1 import public_pb2_grpc
from gatehouse.rpc import Server, ServerTelemetry, Service
from gatehouse.storage import Database
from tests.support.rpc import PLAINTEXT, TableVerifier, principal
from tests.support.scopes import EVERY_SCOPE
from tests.support.services import quiet


@pytest.fixture
def verifier() -> TableVerifier:
    """The verifier of the server. The token `alice` is valid and has all scopes."""
    verifier = TableVerifier()
    verifier.answers["alice"] = principal(*EVERY_SCOPE.split())
    return verifier


@pytest.fixture
async def public(
    database_urls: dict[str, str], verifier: TableVerifier
) -> AsyncIterator[public_pb2_grpc.PublicServiceAsyncStub]:
    """A stub of PublicService."""
    database = Database(database_urls["public"], pool_size=2)
    servicer = PublicService(
        NoticeRepository(database, time.time),
        version="1",
        issuers=["https://issuer.test"],
        rules=load_policy().rules,
    )
    service = Service(public_pb2_grpc.add_PublicServiceServicer_to_server, servicer)
    server = Server([service], verifier=verifier, tls=PLAINTEXT, telemetry=ServerTelemetry(quiet()))
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield public_pb2_grpc.PublicServiceStub(channel)
    finally:
        await server.stop(0)
        await database.aclose()
