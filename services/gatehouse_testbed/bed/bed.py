"""The test bed: PostgreSQL, the development issuer and all services, under the control of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse.runtime.process import Hooks
from gatehouse_testbed.bed.clock import MovableClock
from gatehouse_testbed.bed.database import BedDatabase, run_database
from gatehouse_testbed.bed.faults import AnyFault, DatabaseFault, Faults
from gatehouse_testbed.bed.issuer import IssuerApp
from gatehouse_testbed.bed.rpc import CallRecorder, FaultInterceptor
from gatehouse_testbed.bed.services import run_services
from gatehouse_testbed.bed.tokens import TokenFactory, TokenRequest
from gatehouse_testbed.certificates import TlsFiles, write_certificates
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.health import wait_for_health
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.ports import HOST, free_port
from gatehouse_testbed.tour.services import open_services
from gatehouse_testbed.web import listen, serve_app

SERVING_SECONDS = 60.0
API_CLIENT, ADMIN_CLIENT, ROLE_CLIENT = "gatehouse-api", "gatehouse-admin-service", "gatehouse-role-sync"


class Bed:
    """A running test bed.

    Args:
        profile: Where everything is, and the secrets of the realm.
        clock: Clock of issuer and services.
        faults: The faults that are in effect.
        issuer: The issuer.
        calls: The calls that the services received.
        database: The database.

    Attributes:
        users: Id of the entry of each user of the realm, by user name.
    """

    def __init__(
        self,
        profile: Profile,
        clock: MovableClock,
        faults: Faults,
        issuer: IssuerApp,
        calls: CallRecorder,
        database: BedDatabase,
    ) -> None:
        self.profile = profile
        self.clock = clock
        self.faults = faults
        self.issuer = issuer
        self.calls = calls
        self._database = database
        self._other_keys = SigningKeys.create()
        self.users: Mapping[str, str] = {}

    def tokens(self) -> TokenFactory:
        """Return what makes tokens of the realm as it is now."""
        return TokenFactory(self.issuer.tokens, self._other_keys)

    async def add_fault(self, fault: AnyFault) -> str:
        """Add a fault and return its id.

        Raises:
            ValueError: Another fault of the database is in effect.
        """
        if isinstance(fault, DatabaseFault):
            if any(isinstance(other, DatabaseFault) for other in self.faults.all().values()):
                raise ValueError("another fault of the database is in effect; remove it first")
            await self._database.apply(fault)
        return self.faults.add(fault)

    async def remove_fault(self, name: str) -> None:
        """Remove a fault.

        Raises:
            KeyError: There is no such fault.
        """
        fault = self.faults.remove(name)
        if isinstance(fault, DatabaseFault):
            await self._database.lift(fault)

    async def remove_faults(self) -> None:
        """Remove all faults."""
        for name in self.faults.all():
            await self.remove_fault(name)

    async def reset(self) -> None:
        """Undo all that a test has changed: faults, clock, issuer and tables; forget what was recorded."""
        await self.remove_faults()
        self.clock.reset()
        self.issuer.reset()
        await self._database.reset()
        self.calls.calls.clear()

    async def seed(self, usernames: Iterable[str]) -> None:
        """Create the entries of users, and keep the tables for `reset`.

        Raises:
            TestbedError: A call fails.
        """
        async with open_services(self.profile) as services:

            async def create(username: str) -> tuple[str, str]:
                token = self.tokens().make(TokenRequest(user=username))
                outcome = await services.call("users", "GetCurrentUser", token=token)
                if outcome.code is not grpc.StatusCode.OK:
                    raise TestbedError(f"{username}: GetCurrentUser: {outcome.code.name} {outcome.message}")
                return username, outcome.responses[0].user_id

            self.users = dict(await asyncio.gather(*map(create, usernames)))
        await self._database.take_snapshot()
        self.calls.calls.clear()
        self.issuer.requests.clear()


@asynccontextmanager
async def run_bed(realm: Realm, folder: Path, cache: Path | None) -> AsyncIterator[Bed]:
    """Run a test bed until the context ends.

    Args:
        realm: Realm of the issuer.
        folder: For its files.
        cache: See run_database.

    Raises:
        TestbedError: A part does not start.
    """
    private = folder / "private"
    private.mkdir(mode=0o700)
    async with AsyncExitStack() as stack:
        starting = run_database(folder / "pg", private / "postgres.log", cache)
        opening = asyncio.ensure_future(stack.enter_async_context(starting))
        names = {u.user_id: u.username for u in realm.users.values() if not u.service_account_client_id}
        clock, faults = MovableClock(), Faults()
        listener = listen(HOST, 0)
        base_url = f"http://{HOST}:{listener.getsockname()[1]}"
        issuer = IssuerApp(realm, base_url, clock, faults)
        await stack.enter_async_context(serve_app(issuer, listener))
        calls = CallRecorder(names, clock.time)
        tls = write_certificates(private)
        profile = _profile(realm, f"{base_url}/realms/{realm.name}", tls)
        database = await opening
        sections = _sections(realm, base_url, profile, tls, database.urls())
        hooks = Hooks(clock.time, clock.monotonic, (FaultInterceptor(faults, names),), (calls,))
        await stack.enter_async_context(run_services(sections, hooks))
        await asyncio.gather(
            *(wait_for_health(profile, name, serving=True, seconds=SERVING_SECONDS) for name in SERVICES)
        )
        bed = Bed(profile, clock, faults, issuer, calls, database)
        await bed.seed(u.username for u in realm.users.values() if u.enabled and u.user_id in names)
        # A suspended server does not stop.
        stack.push_async_callback(bed.remove_faults)
        yield bed


def _profile(realm: Realm, issuer: str, tls: TlsFiles) -> Profile:
    return Profile.model_validate(
        {
            "issuer": issuer,
            "targets": {name: f"{HOST}:{free_port()}" for name in SERVICES},
            "ca_file": tls.ca_file,
            "clients": {c.client_id: c.secret for c in realm.clients.values() if c.secret},
            "passwords": {u.username: u.password for u in realm.users.values() if u.password},
        }
    )


def _sections(
    realm: Realm, base_url: str, profile: Profile, tls: TlsFiles, urls: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings of the services."""

    def secret(client_id: str) -> str:
        client = realm.clients.get(client_id)
        if client is None:
            raise TestbedError(f"realm {realm.name}: client {client_id} is missing; the services need it")
        return client.secret

    sections: dict[str, Any] = {
        name: {"port": int(target.rpartition(":")[2]), "database_url": urls[name]}
        for name, target in profile.targets.items()
    }
    sections["admin"] |= {
        "client": {"client_id": ADMIN_CLIENT, "client_secret": secret(ADMIN_CLIENT)},
        "users_target": profile.targets["users"],
        "role_sync": {
            "admin_url": f"{base_url}/admin/realms/{realm.name}",
            "client_secret": secret(ROLE_CLIENT),
        },
    }
    return sections | {
        "issuers": [
            {
                "issuer": profile.issuer,
                "audience": API_CLIENT,
                "client_id": API_CLIENT,
                "client_secret": secret(API_CLIENT),
                # Every token is introspected on each call, so that a test need not wait for a cache.
                "revocation_budget_seconds": 0,
                "leeway_seconds": 0,
            }
        ],
        "server": {
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
