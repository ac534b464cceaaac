"""A whole test bed: PostgreSQL, the development issuer and all services."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.options import options_for_tests
from gatehouse.client.profile import Profile
from gatehouse.runtime.process import Hooks
from gatehouse_testbed.bed.addresses import Addresses
from gatehouse_testbed.bed.bed import DISCOVERY_PATH, Bed, run_issuer_bed
from gatehouse_testbed.bed.database import BedDatabase
from gatehouse_testbed.bed.faults import NETWORK
from gatehouse_testbed.bed.impostor import Impostor
from gatehouse_testbed.bed.network import FindImpostor, Route
from gatehouse_testbed.bed.rpc import CallRecorder, FaultInterceptor
from gatehouse_testbed.bed.services import run_services
from gatehouse_testbed.bed.token_request import TokenRequest
from gatehouse_testbed.certificates import LOOPBACK, Authority, TlsFiles, write_certificates
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.ports import HOST, free_port
from gatehouse_testbed.tour.services import open_services
from gatehouse_testbed.web import listen, netloc

SERVING_SECONDS = 60.0
API_CLIENT = "gatehouse-api"


@asynccontextmanager
async def run_bed(
    realm: Realm, folder: Path, addresses: Addresses, database: BedDatabase
) -> AsyncIterator[Bed]:
    """Run a whole test bed until the context ends.

    Args:
        realm: Realm of the issuer.
        folder: For its certificates.
        addresses: Where it listens.
        database: The migrated database.

    Raises:
        TestbedError: A part does not start.
    """
    async with AsyncExitStack() as stack:
        bed = await stack.enter_async_context(run_issuer_bed(realm, addresses))
        authority = Authority.create(dt.datetime.now(dt.UTC))
        names = sorted({*LOOPBACK, addresses.local, addresses.name})
        tls = write_certificates(folder, names, authority)
        ports = {name: free_port() for name in SERVICES}
        outside = {}
        for name, port in ports.items():
            impostor = Impostor(authority, names, tls.ca_file, port, folder / name, stack)
            listener = listen(addresses.host, addresses.services.get(name, 0))
            outside[name] = await _open_route(bed, stack, name, listener, port, impostor.find)
        bed.targets = {name: netloc(addresses.name, port) for name, port in outside.items()}
        targets = {name: netloc(addresses.local, port) for name, port in outside.items()}
        bed.profile = bed.profile.model_copy(update={"targets": targets, "ca_file": tls.ca_file})
        to_database = await _open_route(bed, stack, "database", listen(HOST, 0), database.port)
        usernames = {u.user_id: u.username for u in realm.users.values() if not u.service_account_client_id}
        interceptor = FaultInterceptor(bed.faults, usernames, bed.clock.time)
        bed.seen.methods = interceptor.methods
        hooks = Hooks(
            bed.clock.time,
            bed.clock.monotonic,
            interceptors=(interceptor,),
            channel_options=options_for_tests(),
            observers=(CallRecorder(bed.seen, usernames, bed.clock.time),),
        )
        sections = _sections(realm, bed.profile, tls)
        for name, port in ports.items():
            sections[name] |= {"port": port, "database_url": database.url(name, to_database)}
        await stack.enter_async_context(run_services(sections, hooks, bed.seen))
        await asyncio.gather(
            *(wait_for_health(bed.profile, name, serving=True, seconds=SERVING_SECONDS) for name in SERVICES)
        )
        bed.users = await _create_entries(bed, realm)
        await _keep_as_new(bed, database)
        # A suspended server does not stop.
        stack.push_async_callback(bed.remove_faults)
        yield bed


async def _create_entries(bed: Bed, realm: Realm) -> Mapping[str, str]:
    """Create the entry of each user who may log in, by their first call; return their ids by user name."""
    usernames = [u.username for u in realm.users.values() if u.enabled and not u.service_account_client_id]
    async with open_services(bed.profile) as services:

        async def create(username: str) -> tuple[str, str]:
            token = bed.tokens().make(TokenRequest(user=username))
            outcome = await services.call("users", "GetCurrentUser", token=token)
            if outcome.code is not grpc.StatusCode.OK:
                raise TestbedError(f"{username}: GetCurrentUser: {outcome.code.name} {outcome.message}")
            return username, outcome.responses[0].user_id

        return dict(await asyncio.gather(*map(create, usernames)))


async def _keep_as_new(bed: Bed, database: BedDatabase) -> None:
    """Make the present state the one to which a reset returns."""
    await database.take_snapshot()
    bed.database = database
    bed.forget()


async def _open_route(
    bed: Bed,
    stack: AsyncExitStack,
    part: str,
    listener: socket.socket,
    port: int,
    find_impostor: FindImpostor | None = None,
) -> int:
    """Open the route to a part until `stack` is closed; return the port of the listener."""
    route = Route(f"{NETWORK}{part}", listener, port, bed.faults, find_impostor=find_impostor)
    await stack.enter_async_context(route.serve())
    bed.routes[route.name] = route
    return route.address[1]


def _sections(realm: Realm, profile: Profile, tls: TlsFiles) -> dict[str, Any]:
    """Return the settings of the services, but for ports and databases."""

    def secret(client_id: str) -> str:
        client = realm.clients.get(client_id)
        if client is None:
            raise TestbedError(f"realm {realm.name}: client {client_id} is missing; the services need it")
        return client.secret

    sections: dict[str, Any] = {name: {} for name in profile.targets}
    # <part admin>
    discovery_url = profile.discovery_url or f"{profile.issuer}{DISCOVERY_PATH}"
    issuer = discovery_url.removesuffix(DISCOVERY_PATH)
    admin_client = "gatehouse-admin-service"
    sections["admin"] = {
        "client": {"client_id": admin_client, "client_secret": secret(admin_client)},
        "users_target": profile.targets["users"],
        "role_sync": {
            "admin_url": issuer.replace("/realms/", "/admin/realms/"),
            "allow_http": True,
            "client_secret": secret("gatehouse-role-sync"),
        },
    }
    # </part admin>
    return sections | {
        "issuers": [
            {
                "issuer": profile.issuer,
                "discovery_url": profile.discovery_url,
                "allow_http": True,
                "audience": API_CLIENT,
                "client_id": API_CLIENT,
                "client_secret": secret(API_CLIENT),
                # Every token is introspected on each call, so that a test need not wait for a cache.
                "revocation_budget_seconds": 0,
                "leeway_seconds": 0,
            }
        ],
        "server": {
            "host": HOST,
            "reflection": True,
            "drain_seconds": 0,
            "recheck_seconds": 0.2,
            "health_poll_seconds": 0.02,
        },
        "tls": {
            "certificate_file": tls.certificate_file,
            "private_key_file": tls.private_key_file,
            "ca_file": tls.ca_file,
        },
        "log": {"format": "json"},
    }
