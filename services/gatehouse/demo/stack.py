"""The whole system on this machine: PostgreSQL, issuer, three services over TLS, and a store of traces."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatehouse.demo.errors import DemoError
from gatehouse.demo.files import realm_file
from gatehouse.demo.postgres import Postgres
from gatehouse.demo.processes import Processes
from gatehouse.issuer import Realm, load_realm
from gatehouse.settings import Profile, environment

if TYPE_CHECKING:
    from gatehouse.demo.certificates import Certificates

SERVICES = ("users", "admin", "public")
SERVING_SECONDS = 60.0
REVOCATION_BUDGET_SECONDS = 1.0
EXPORT_SECONDS = 0.2
_HOST = "127.0.0.1"
_AUDIENCE = "gatehouse-api"
_ADMIN_CLIENT = "gatehouse-admin-service"
_ROLE_CLIENT = "gatehouse-role-sync"
# Below the ports that the system gives to outgoing connections, so that none of these takes ours.
_FREE_PORTS = range(20_000, 32_000)

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen, all on loopback."""

    issuer: int = 8080
    users: int = 50051
    admin: int = 50052
    public: int = 50053
    traces: int = 16686

    @classmethod
    def free(cls) -> Ports:
        """Returns ports that are free now."""
        found: set[int] = set()
        while len(found) < len(cls.__slots__):
            port = secrets.choice(_FREE_PORTS)
            if _is_free(port):
                found.add(port)
        return cls(*found)

    def check(self) -> None:
        """Refuses ports that are taken.

        Raises:
            DemoError: One is.
        """
        for name in self.__slots__:
            port = getattr(self, name)
            if not _is_free(port):
                raise DemoError(
                    f"port {port}, for {name}, is taken; end what listens there (`ss -ltnp sport = :{port}` "
                    "names it), or take free ports with `gatehouse demo --keep --free-ports`"
                )


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Stack:
    """A system that serves.

    Attributes:
        profile: Where everything is, and how to get in.
        profile_file: The same for `GATEHOUSE_PROFILE`.
        folder: Of its logs.
        seconds: From the beginning until everything was SERVING.
    """

    profile: Profile
    profile_file: Path
    folder: Path
    seconds: float
    _postgres: Postgres = field(repr=False)
    _processes: Processes = field(repr=False)

    async def stop_database(self) -> None:
        """Stops PostgreSQL; its data stays."""
        await self._postgres.stop()

    async def start_database(self) -> None:
        """Starts PostgreSQL again."""
        await self._postgres.start()

    async def first_end(self) -> str:
        """Waits until a process ends, which none should, and says which and why."""
        return await self._processes.first_end()


@asynccontextmanager
async def run_stack(
    *,
    tell: Tell,
    ports: Ports | None = None,
    realm: Path | None = None,
    parent: Path | None = None,
    issuer_settings: Mapping[str, object] | None = None,
    began: float | None = None,
) -> AsyncIterator[Stack]:
    """Runs the system until the context ends; then nothing of it is left, neither process nor file.

    Args:
        tell: Told of each part that is up: its name, and where it is.
        ports: Where to listen; free ports when None.
        realm: Realm file of the issuer; the repository's when None.
        parent: Where its folder is made; where temporary files go when None. A Unix socket is in it, so
            its path must be short.
        issuer_settings: Changes how the services accept the issuer's tokens, see IssuerSettings.
        began: When the command began, on the monotonic clock.

    Raises:
        DemoError: A part does not start.
        RealmError: The realm file cannot be used.
    """
    began = time.monotonic() if began is None else began
    path = realm or realm_file()
    loaded = load_realm(path, environment())
    chosen = ports or Ports.free()
    chosen.check()
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gatehouse-", dir=parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # The folder itself must be open for the user whom PostgreSQL runs as; what is private is below it.
        private = folder / "private"
        private.mkdir(mode=0o700)
        starting = _Start(chosen, path, loaded, private, dict(issuer_settings or {}), tell, stack)
        yield await starting.run(folder / "pg", began)


class _Start:
    """Brings the parts up, those side by side that can be."""

    def __init__(
        self,
        ports: Ports,
        realm_path: Path,
        realm: Realm,
        folder: Path,
        issuer_settings: dict[str, object],
        tell: Tell,
        stack: AsyncExitStack,
    ) -> None:
        self.ports = ports
        self.realm_path = realm_path
        self.realm = realm
        self.folder = folder
        self.issuer_settings = issuer_settings
        self.tell = tell
        self.stack = stack
        self.issuer_url = f"http://{_HOST}:{ports.issuer}/realms/{realm.name}"
        self.admin_password = secrets.token_urlsafe(18)
        self.processes = Processes(folder)

    async def run(self, postgres_folder: Path, began: float) -> Stack:
        database = await Postgres.launch(postgres_folder, self.folder / "postgres.log")
        self.stack.push_async_callback(database.aclose)
        self.stack.push_async_callback(self.processes.aclose)
        await self._launch_issuer()
        # These two keep both cores busy for a while, and find the rest of this one ready when they are up.
        from gatehouse.demo.certificates import make_certificates  # noqa: PLC0415
        from gatehouse.demo.traces import run_trace_server  # noqa: PLC0415

        certificates = make_certificates(self.folder)
        otlp = await self.stack.enter_async_context(run_trace_server(self.ports.traces))
        await database.prepare()
        self.tell("issuer", (await self.processes.ready("issuer"))["issuer"])
        self.tell("postgres", f"PostgreSQL {database.version}, one login role for each service")
        self.tell("traces", f"http://{_HOST}:{self.ports.traces}/api/traces/ID")
        migrating = asyncio.ensure_future(database.migrate())
        self.stack.push_async_callback(_settled, migrating)
        urls = database.urls()
        for name in SERVICES:
            own = {f"GATEHOUSE_DATABASE__{name.upper()}_URL": urls[name]}
            settings = self._settings(name, certificates, otlp) | own
            await self.processes.start(name, ["serve", name], settings)
        profile = self._profile(certificates)
        serving = [asyncio.ensure_future(self._serving(name, profile)) for name in SERVICES]
        try:
            self.tell("migrate", f"{len(await asyncio.shield(migrating))} migrations ran")
            ready = await asyncio.gather(*serving)
        finally:
            for task in serving:
                task.cancel()
        metrics = {
            name: f"http://{_HOST}:{found['metrics']}/metrics"
            for name, found in zip(SERVICES, ready, strict=True)
        }
        profile = profile.model_copy(update={"metrics": metrics})
        file = self.folder / "profile.json"
        write_profile(profile, file)
        return Stack(profile, file, self.folder, time.monotonic() - began, database, self.processes)

    async def _launch_issuer(self) -> None:
        word = self.folder / "issuer-admin-password"
        word.touch(mode=0o600)
        word.write_text(self.admin_password, encoding="utf-8")
        arguments = ["issuer", "--realm", str(self.realm_path), "--port", str(self.ports.issuer)]
        # The realm file may take values from these, too.
        settings = {name: value for name, value in environment().items() if name.startswith("GATEHOUSE_")}
        await self.processes.start("issuer", [*arguments, "--admin-password-file", str(word)], settings)

    def _settings(self, name: str, certificates: Certificates, otlp: str) -> dict[str, str]:
        accepted = {
            "issuer": self.issuer_url,
            "audience": _AUDIENCE,
            "client_id": _AUDIENCE,
            "client_secret": self._secret(_AUDIENCE),
            "revocation_budget_seconds": REVOCATION_BUDGET_SECONDS,
            # Everything runs by one clock, and the tour shows what happens when a token expires.
            "leeway_seconds": 0,
        }
        found = {
            "GATEHOUSE_ISSUERS": json.dumps([accepted | self.issuer_settings]),
            f"GATEHOUSE_SERVER__{name.upper()}_PORT": str(getattr(self.ports, name)),
            "GATEHOUSE_SERVER__REFLECTION": "true",
            "GATEHOUSE_SERVER__DRAIN_SECONDS": "2",
            "GATEHOUSE_TLS__CERTIFICATE_FILE": str(certificates.certificate_file),
            "GATEHOUSE_TLS__PRIVATE_KEY_FILE": str(certificates.private_key_file),
            "GATEHOUSE_TLS__CA_FILE": str(certificates.ca_file),
            "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": otlp,
            "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
            "GATEHOUSE_TELEMETRY__EXPORT_SECONDS": str(EXPORT_SECONDS),
            "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
            "GATEHOUSE_LOG__FORMAT": "json",
        }
        if name == "admin":
            found |= {
                "GATEHOUSE_CLIENT__CLIENT_ID": _ADMIN_CLIENT,
                "GATEHOUSE_CLIENT__CLIENT_SECRET": self._secret(_ADMIN_CLIENT),
                "GATEHOUSE_CLIENT__USERS_TARGET": f"{_HOST}:{self.ports.users}",
                "GATEHOUSE_ROLE_SYNC__ADMIN_URL": f"http://{_HOST}:{self.ports.issuer}/admin/realms/{self.realm.name}",
                "GATEHOUSE_ROLE_SYNC__CLIENT_SECRET": self._secret(_ROLE_CLIENT),
            }
        return found

    def _secret(self, client_id: str) -> str:
        client = self.realm.clients.get(client_id)
        if client is None:
            raise DemoError(f"{self.realm_path}: has no client {client_id}, and the services need it; add it")
        return client.secret

    def _profile(self, certificates: Certificates) -> Profile:
        users = (user for user in self.realm.users.values() if user.password)
        return Profile.model_validate(
            {
                "issuer": self.issuer_url,
                "users_target": f"{_HOST}:{self.ports.users}",
                "admin_target": f"{_HOST}:{self.ports.admin}",
                "public_target": f"{_HOST}:{self.ports.public}",
                "ca_file": certificates.ca_file,
                # Who calls the services has no business with the client that may manage users.
                "clients": {
                    c.client_id: c.secret
                    for c in self.realm.clients.values()
                    if c.secret and c.client_id != _ROLE_CLIENT
                },
                "passwords": {user.username: user.password for user in users},
                "traces_url": f"http://{_HOST}:{self.ports.traces}",
                "issuer_admin_password": self.admin_password,
                "revocation_budget_seconds": REVOCATION_BUDGET_SECONDS,
            }
        )

    async def _serving(self, name: str, profile: Profile) -> dict[str, int]:
        from gatehouse.demo.health import until_health  # noqa: PLC0415 - imported while the services start

        found = await self.processes.ready(name)
        await until_health(profile, name, serving=True, seconds=SERVING_SECONDS)
        self.tell(name, f"{_HOST}:{found[name]} over TLS, SERVING")
        return found


def write_profile(profile: Profile, file: Path) -> None:
    """Writes a profile, its secrets in clear, for its owner only."""
    plain = profile.model_dump(mode="json", exclude_none=True)
    plain["clients"] = {name: word.get_secret_value() for name, word in profile.clients.items()}
    plain["passwords"] = {name: word.get_secret_value() for name, word in profile.passwords.items()}
    if profile.issuer_admin_password is not None:
        plain["issuer_admin_password"] = profile.issuer_admin_password.get_secret_value()
    file.touch(mode=0o600)
    file.write_text(json.dumps(plain, indent=2), encoding="utf-8")


async def _settled(work: asyncio.Future[list[str]]) -> None:
    """Waits for what runs in a thread, which nothing can cancel."""
    await asyncio.gather(work, return_exceptions=True)
