"""A running test bed, as its control API sees it: the issuer, and with it all services or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from gatehouse.client.profile import Profile
from gatehouse_testbed.bed.addresses import Addresses
from gatehouse_testbed.bed.clock import MovableClock
from gatehouse_testbed.bed.evidence import UNKNOWN_METHOD, Evidence
from gatehouse_testbed.bed.fault_list import AnyFault, Faults
from gatehouse_testbed.bed.faults import NETWORK, DatabaseFault, IssuerFault, NetworkFault, RpcFault
from gatehouse_testbed.bed.issuer import IssuerApp
from gatehouse_testbed.bed.network import Route
from gatehouse_testbed.bed.tokens import TokenFactory
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.web import listen, serve_app

DISCOVERY_PATH = "/.well-known/openid-configuration"


class Database(Protocol):
    """The database of the services."""

    async def reset(self) -> None:
        """Restore the content of all tables."""
        ...

    async def apply(self, fault: DatabaseFault) -> None:
        """Make it fail."""
        ...

    async def lift(self, fault: DatabaseFault) -> None:
        """Undo a fault."""
        ...


class Bed:
    """A running test bed.

    Args:
        profile: Where everything is for the test bed itself, and the secrets of the realm.
        issuer: The issuer.
        clock: Clock of issuer and services.
        faults: The faults that are in effect.

    Attributes:
        seen: What the services have seen.
        targets: gRPC target of each service for clients, by its name.
        users: Id of the entry of each user of the realm, by user name.
        database: The database; None if there are no services.
        routes: The route to each part, by the target of its faults, such as `network/issuer`.
    """

    def __init__(self, profile: Profile, issuer: IssuerApp, clock: MovableClock, faults: Faults) -> None:
        self.profile = profile
        self.issuer = issuer
        self.clock = clock
        self.faults = faults
        self.seen = Evidence()
        self.targets: Mapping[str, str] = {}
        self.users: Mapping[str, str] = {}
        self.database: Database | None = None
        self.routes: dict[str, Route] = {}
        # Creates a key when the first token is to be signed: one with RSA takes 50 ms.
        self._other_keys = SigningKeys()
        # Faults of the database and resets take a while, and must not overlap.
        self._changing = asyncio.Lock()

    def tokens(self) -> TokenFactory:
        """Return what makes tokens of the realm as it is now."""
        return TokenFactory(self.issuer.tokens, self._other_keys)

    async def add_fault(self, fault: AnyFault) -> str:
        """Add a fault and return its id.

        Raises:
            ValueError: Another fault of the database is in effect, or there is no such target.
        """
        if self.database is None and not isinstance(fault, IssuerFault | NetworkFault):
            raise ValueError(
                f"{fault.target}: this test bed is only an issuer; its targets begin with issuer/ or network/"
            )
        if isinstance(fault, RpcFault):
            self._check_method(fault)
        if isinstance(fault, NetworkFault):
            self._check_route(fault)
        async with self._changing:
            if isinstance(fault, DatabaseFault) and self.database is not None:
                if any(isinstance(other, DatabaseFault) for other in self.faults.all().values()):
                    raise ValueError("another fault of the database is in effect; remove it first")
                await self.database.apply(fault)
            if isinstance(fault, NetworkFault):
                self.routes[fault.target].apply(fault)
            return self.faults.add(fault)

    def _check_method(self, fault: RpcFault) -> None:
        streaming = [streams for name, streams in self.seen.methods.items() if fault.names(name)]
        if not streaming:
            raise ValueError(f"{fault.target}: {UNKNOWN_METHOD}")
        loses_response = fault.after_messages == 1 and fault.code != "OK"
        if fault.after_messages is not None and not (any(streaming) or loses_response):
            raise ValueError(
                f"{fault.target}: has one response; use after_messages 1, and a code other than OK"
            )

    def _check_route(self, fault: NetworkFault) -> None:
        route = self.routes.get(fault.target)
        if route is None:
            raise ValueError(f"{fault.target}: no such part; use one of {', '.join(self.routes)}")
        if fault.certificate is not None and not route.has_certificate:
            raise ValueError(f"{fault.target}: only services have a certificate")

    async def remove_fault(self, name: str) -> None:
        """Remove a fault.

        Raises:
            KeyError: There is no such fault.
        """
        async with self._changing:
            await self._remove_fault(name)

    async def remove_faults(self) -> None:
        """Remove all faults."""
        async with self._changing:
            await self._remove_faults()

    async def _remove_fault(self, name: str) -> None:
        fault = self.faults.remove(name)
        if isinstance(fault, DatabaseFault) and self.database is not None:
            await self.database.lift(fault)
        if isinstance(fault, NetworkFault):
            await self.routes[fault.target].lift(fault)

    async def _remove_faults(self) -> None:
        for name in self.faults.all():
            await self._remove_fault(name)

    async def reset(self) -> None:
        """Undo all that a test has changed: faults, clock, issuer and tables; forget what was recorded."""
        async with self._changing:
            await self._remove_faults()
            self.clock.reset()
            if self.database is not None:
                await self.database.reset()
            # After the database, whose services may be about to change the issuer.
            self.issuer.reset()
            self.forget()

    def forget(self) -> None:
        """Forget what was recorded."""
        self.seen.clear()
        self.issuer.requests.clear()


@asynccontextmanager
async def run_issuer_bed(realm: Realm, addresses: Addresses) -> AsyncIterator[Bed]:
    """Run a test bed that is only an issuer, until the context ends.

    Args:
        realm: Its realm.
        addresses: Where it listens.

    Raises:
        TestbedError: The port is taken.
    """
    clock, faults = MovableClock(), Faults()
    entrance, listener = listen(addresses.host, addresses.issuer), listen(HOST, 0)
    route = Route(f"{NETWORK}issuer", entrance, listener.getsockname()[1], faults)
    port = route.address[1]
    base_url, local_url = addresses.url(port), addresses.local_url(port)
    issuer = IssuerApp(realm, base_url, clock, faults, local_url)
    profile = Profile.model_validate(
        {
            "issuer": f"{base_url}/realms/{realm.name}",
            "discovery_url": None
            if local_url == base_url
            else f"{local_url}/realms/{realm.name}{DISCOVERY_PATH}",
            "clients": {c.client_id: c.secret for c in realm.clients.values() if c.secret},
            "passwords": {u.username: u.password for u in realm.users.values() if u.password},
        }
    )
    async with serve_app(issuer, listener), route.serve():
        bed = Bed(profile, issuer, clock, faults)
        bed.routes[route.name] = route
        yield bed
