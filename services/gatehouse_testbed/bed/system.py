"""A whole test bed: PostgreSQL, the development issuer and all services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse.runtime.process import Hooks
from gatehouse_testbed.bed.addresses import Addresses
from gatehouse_testbed.bed.bed import DISCOVERY_PATH, Bed, run_issuer_bed
from gatehouse_testbed.bed.database import BedDatabase
from gatehouse_testbed.bed.rpc import CallRecorder, FaultInterceptor
from gatehouse_testbed.bed.services import run_services
from gatehouse_testbed.bed.tokens import TokenRequest
from gatehouse_testbed.certificates import LOOPBACK, TlsFiles, write_certificates
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.ports import free_port
from gatehouse_testbed.tour.services import open_services

SERVING_SECONDS = 60.0
API_CLIENT, ADMIN_CLIENT, ROLE_CLIENT = "gatehouse-api", "gatehouse-admin-service", "gatehouse-role-sync"


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
        tls = write_certificates(folder, sorted({*LOOPBACK, addresses.local, addresses.name}))
        ports = {name: addresses.services.get(name) or free_port() for name in SERVICES}
        bed.targets = {name: f"{addresses.name}:{port}" for name, port in ports.items()}
        targets = {name: f"{addresses.local}:{port}" for name, port in ports.items()}
        bed.profile = bed.profile.model_copy(update={"targets": targets, "ca_file": tls.ca_file})
        names = {u.user_id: u.username for u in realm.users.values() if not u.service_account_client_id}
        interceptor = FaultInterceptor(bed.faults, names)
        bed.methods = interceptor.methods
        hooks = Hooks(
            bed.clock.time,
            bed.clock.monotonic,
            interceptors=(interceptor,),
            observers=(CallRecorder(bed.calls, names, bed.clock.time),),
        )
        sections = _sections(realm, bed.profile, addresses.host, tls, database.urls())
        await stack.enter_async_context(run_services(sections, hooks, bed.spans))
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


def _sections(
    realm: Realm, profile: Profile, host: str, tls: TlsFiles, urls: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings of the services."""

    def secret(client_id: str) -> str:
        client = realm.clients.get(client_id)
        if client is None:
            raise TestbedError(f"realm {realm.name}: client {client_id} is missing; the services need it")
        return client.secret

    discovery_url = profile.discovery_url or f"{profile.issuer}{DISCOVERY_PATH}"
    issuer = discovery_url.removesuffix(DISCOVERY_PATH)
    sections: dict[str, Any] = {
        name: {"port": int(target.rpartition(":")[2]), "database_url": urls[name]}
        for name, target in profile.targets.items()
    }
    sections["admin"] |= {
        "client": {"client_id": ADMIN_CLIENT, "client_secret": secret(ADMIN_CLIENT)},
        "users_target": profile.targets["users"],
        "role_sync": {
            "admin_url": issuer.replace("/realms/", "/admin/realms/"),
            "allow_http": True,
            "client_secret": secret(ROLE_CLIENT),
        },
    }
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
            "host": host,
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
