"""The whole system on this machine: PostgreSQL, issuer, all services over TLS, and a trace receiver."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse.settings import environment
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import realm_file, write_profile, write_settings
from gatehouse_testbed.issuer import Realm, load_realm, realm_variables
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.postgres import Postgres
from gatehouse_testbed.processes import GatehouseProcess
from gatehouse_testbed.run_folder import run_folder
from gatehouse_testbed.stack_ports import Ports

if TYPE_CHECKING:
    from gatehouse_testbed.certificates import TlsFiles

SERVING_SECONDS = 60.0
REVOCATION_BUDGET_SECONDS = 1.0
EXPORT_SECONDS = 0.2
_AUDIENCE = "gatehouse-api"
_MODE = "hybrid"
# Clients whose secrets callers do not need.
_OWN_CLIENTS: set[str] = set()
# <part admin>
_ROLE_CLIENT = "gatehouse-role-sync"
_OWN_CLIENTS.add(_ROLE_CLIENT)
# </part admin>

OnProgress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Stack:
    """A running system.

    Attributes:
        profile: Addresses, clients and users.
        profile_file: The same, for `GATEHOUSE_PROFILE`.
        settings_file: Settings of all services, for a shell.
        folder: Logs of all processes.
        postgres: The database.
        processes: The issuer and each service, by name. `restart` replaces them.
    """

    profile: Profile
    profile_file: Path
    settings_file: Path
    folder: Path
    postgres: Postgres = field(repr=False)
    processes: dict[str, GatehouseProcess] = field(repr=False)

    async def stop_database(self) -> None:
        """Stop PostgreSQL; its data stays."""
        await self.postgres.stop()

    async def start_database(self) -> None:
        """Start PostgreSQL again."""
        await self.postgres.start()

    @property
    def pids(self) -> Mapping[str, int]:
        """Process id of each part, by its name."""
        processes = {name: process.process.pid for name, process in self.processes.items()}
        return {"postgres": self.postgres.pid, **processes}

    async def exited(self, name: str) -> TestbedError:
        """Wait until a part exits; return an error with the reason."""
        return await (self.postgres if name == "postgres" else self.processes[name]).exited()

    async def restart(self, name: str) -> None:
        """Start a part that has exited again, and wait until it is ready.

        Raises:
            TestbedError: It does not start.
        """
        if name == "postgres":
            await self.postgres.restart()
        else:
            self.processes[name] = await self.processes[name].restart()
            await self.processes[name].ready()


@asynccontextmanager
async def run_stack(
    *,
    on_progress: OnProgress = lambda _name, _text: None,
    ports: Ports | None = None,
    realm: Path | None = None,
    parent: Path | None = None,
    issuer_settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Stack]:
    """Run the system until the context ends, then stop all processes and delete all files.

    Args:
        on_progress: Called for each part when it is ready, with its name and its address.
        ports: Ports to listen on; free ports if None.
        realm: Realm file of the issuer; the bundled one if None.
        parent: Folder for its files; the system's temporary folder if None.
        issuer_settings: Replaces settings of the issuer that the services trust, see IssuerSettings.

    Raises:
        TestbedError: A part does not start.
        RealmError: The realm file is invalid.
    """
    path = realm or realm_file()
    loaded = load_realm(path, environment())
    ports = ports or Ports.free()
    ports.check()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(run_folder(parent))
        # PostgreSQL may run as another user, who must reach its data below `folder`; the rest is private.
        private = folder / "private"
        private.mkdir(mode=0o700)
        starter = _Starter(path, loaded, ports, private, on_progress, dict(issuer_settings or {}), stack)
        yield await starter.run(folder / "pg")


class _Starter:
    """Starts the parts, concurrently where possible."""

    def __init__(
        self,
        realm_path: Path,
        realm: Realm,
        ports: Ports,
        folder: Path,
        on_progress: OnProgress,
        issuer_settings: dict[str, object],
        stack: AsyncExitStack,
    ) -> None:
        self.realm_path = realm_path
        self.realm = realm
        self.ports = ports
        self.folder = folder
        self.on_progress = on_progress
        self.issuer_settings = issuer_settings
        self.stack = stack
        self.base_url = f"http://{HOST}:{ports.issuer}"
        self.issuer = f"{self.base_url}/realms/{realm.name}"
        self.admin_password = secrets.token_urlsafe(18)
        self.processes: dict[str, GatehouseProcess] = {}

    async def run(self, postgres_folder: Path) -> Stack:
        database = await Postgres.launch(postgres_folder, self.folder / "postgres.log")
        self.stack.push_async_callback(database.aclose)
        await self._start_issuer()
        # PostgreSQL and the issuer keep two cores busy while they start; import the rest meanwhile.
        from gatehouse_testbed.certificates import write_certificates  # noqa: PLC0415
        from gatehouse_testbed.tracing.receiver import run_trace_server  # noqa: PLC0415

        tls = write_certificates(self.folder)
        otlp_endpoint = await self.stack.enter_async_context(run_trace_server(self.ports.traces))
        await database.prepare()
        self.on_progress("issuer", (await self.processes["issuer"].ready())["issuer"])
        self.on_progress("postgres", f"PostgreSQL {database.version}, one login role per service")
        self.on_progress("traces", f"http://{HOST}:{self.ports.traces}/api/traces/ID")
        migrating = asyncio.ensure_future(database.migrate())
        self.stack.push_async_callback(_wait, migrating)
        self.stack.push_async_callback(self._stop, list(SERVICES))
        for name, url in database.urls().items():
            settings = self._settings(name, tls, otlp_endpoint, url)
            self.processes[name] = await GatehouseProcess.start(name, ["serve", name], settings, self.folder)
        profile = self._profile(tls)
        serving = [asyncio.ensure_future(self._wait_until_serving(name, profile)) for name in SERVICES]
        try:
            self.on_progress("migrate", f"{len(await asyncio.shield(migrating))} migrations applied")
            metrics_ports = await asyncio.gather(*serving)
        finally:
            for task in serving:
                task.cancel()
        metrics = {
            name: f"http://{HOST}:{port}/metrics" for name, port in zip(SERVICES, metrics_ports, strict=True)
        }
        logs = {name: self.processes[name].log for name in SERVICES}
        profile = profile.model_copy(update={"metrics": metrics, "logs": logs})
        file = self.folder / "profile.json"
        write_profile(profile, file)
        settings_file = self.folder / "settings.sh"
        write_settings(
            {k: v for name in SERVICES for k, v in self.processes[name].settings.items()}, settings_file
        )
        return Stack(profile, file, settings_file, self.folder, database, self.processes)

    async def _start_issuer(self) -> None:
        password = self.folder / "issuer-admin-password"
        password.touch(mode=0o600)
        password.write_text(self.admin_password, encoding="utf-8")
        arguments = ["issuer", "--realm", str(self.realm_path), "--port", str(self.ports.issuer)]
        arguments += ["--admin-password-file", str(password)]
        names = realm_variables(self.realm_path)
        variables = {name: value for name, value in environment().items() if name in names}
        self.processes["issuer"] = await GatehouseProcess.start("issuer", arguments, variables, self.folder)
        self.stack.push_async_callback(self._stop, ["issuer"])

    async def _stop(self, names: Sequence[str]) -> None:
        await asyncio.gather(*(self.processes[name].stop() for name in names if name in self.processes))

    def _settings(self, name: str, tls: TlsFiles, otlp_endpoint: str, database_url: str) -> dict[str, str]:
        issuer = {
            "issuer": self.issuer,
            "audience": _AUDIENCE,
            "mode": _MODE,
            "client_id": _AUDIENCE,
            "client_secret": self._secret(_AUDIENCE),
            "revocation_budget_seconds": REVOCATION_BUDGET_SECONDS,
            # All processes use one clock, and the tour shows what happens when a token expires.
            "leeway_seconds": 0,
        }
        settings: dict[str, str] = {}
        # <part admin>
        if name == "admin":
            settings |= {
                "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "gatehouse-admin-service",
                "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": self._secret("gatehouse-admin-service"),
                "GATEHOUSE_ADMIN__USERS_TARGET": f"{HOST}:{self.ports.services['users']}",
                "GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL": f"{self.base_url}/admin/realms/{self.realm.name}",
                "GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET": self._secret(_ROLE_CLIENT),
            }
        # </part admin>
        return settings | {
            "GATEHOUSE_ISSUERS": json.dumps([issuer | self.issuer_settings]),
            f"GATEHOUSE_{name.upper()}__PORT": str(self.ports.services[name]),
            f"GATEHOUSE_{name.upper()}__DATABASE_URL": database_url,
            "GATEHOUSE_SERVER__REFLECTION": "true",
            "GATEHOUSE_SERVER__DRAIN_SECONDS": "2",
            "GATEHOUSE_SERVER__RECHECK_SECONDS": "1",
            "GATEHOUSE_TLS__CERTIFICATE_FILE": str(tls.certificate_file),
            "GATEHOUSE_TLS__PRIVATE_KEY_FILE": str(tls.private_key_file),
            "GATEHOUSE_TLS__CA_FILE": str(tls.ca_file),
            "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": otlp_endpoint,
            "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
            "GATEHOUSE_TELEMETRY__EXPORT_SECONDS": str(EXPORT_SECONDS),
            "GATEHOUSE_TELEMETRY__METRICS_PORT": "0",
            "GATEHOUSE_LOG__FORMAT": "json",
        }

    def _secret(self, client_id: str) -> str:
        client = self.realm.clients.get(client_id)
        if client is None:
            raise TestbedError(f"{self.realm_path}: client {client_id} is missing; the services need it")
        return client.secret

    def _profile(self, tls: TlsFiles) -> Profile:
        return Profile.model_validate(
            {
                "issuer": self.issuer,
                "targets": {name: f"{HOST}:{port}" for name, port in self.ports.services.items()},
                "ca_file": tls.ca_file,
                # A caller does not need the client that may manage users.
                "clients": {
                    client.client_id: client.secret
                    for client in self.realm.clients.values()
                    if client.secret and client.client_id not in _OWN_CLIENTS
                },
                "passwords": {u.username: u.password for u in self.realm.users.values() if u.password},
                "traces_url": f"http://{HOST}:{self.ports.traces}",
                "issuer_admin_password": self.admin_password,
                "revocation_budget_seconds": None if _MODE == "jwt" else REVOCATION_BUDGET_SECONDS,
            }
        )

    async def _wait_until_serving(self, name: str, profile: Profile) -> int:
        """Wait for a service and return the port of its metrics."""
        from gatehouse_testbed.health import wait_for_health  # noqa: PLC0415 - imported while services start

        ready = await self.processes[name].ready()
        await wait_for_health(profile, name, serving=True, seconds=SERVING_SECONDS)
        self.on_progress(name, f"{HOST}:{ready[name]} over TLS, SERVING")
        return int(ready["metrics"])


async def _wait(work: asyncio.Future[list[str]]) -> None:
    """Wait for work in a thread, which cannot be cancelled."""
    await asyncio.gather(work, return_exceptions=True)
