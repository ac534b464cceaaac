"""The stack of docker-compose.yml as a user sees it: `docker compose`, and the published ports."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
import httpx

from gatehouse.app.services import SERVICES
from gatehouse.client.calls import Outcome, call_once, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method, parse_requests
from tests.support.scopes import EVERY_SCOPE

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "gatehouse"
ONE_SHOT = ("setup", "migrate", "seed")
OURS = tuple(SERVICES)
# What we run beside the services.
FRONT_ENDS: tuple[str, ...] = ()
# <part console>
FRONT_ENDS = ("console",)
# </part console>
SERVING = ("postgres", "keycloak", *OURS, "entry", *FRONT_ENDS, "jaeger", "prometheus")
EVERYTHING = EVERY_SCOPE


def run(*command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, without variables that change what `docker compose` does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COMPOSE_", "GATEHOUSE_"))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def compose(*arguments: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run `docker compose`."""
    return run("docker", "compose", *arguments, check=check, timeout=timeout)


def up(*arguments: str) -> float:
    """Start everything and return the seconds that it took; a failure includes the logs."""
    began = time.monotonic()
    done = compose("up", *arguments, "--wait", check=False)
    if done.returncode != 0:
        logs = compose("logs", "--no-color", "--tail", "30", check=False).stdout
        raise AssertionError(f"docker compose up: exit {done.returncode}\n{done.stderr[-3000:]}\n{logs}")
    return time.monotonic() - began


def down() -> None:
    """Remove everything, with its data."""
    compose("--profile", "*", "down", "--volumes", "--remove-orphans")


def leftovers() -> list[str]:
    """Return the containers, volumes and networks of the project."""
    label = f"label=com.docker.compose.project={PROJECT}"
    found = []
    for kind, form in (("container", "{{.Names}}"), ("volume", "{{.Name}}"), ("network", "{{.Name}}")):
        every = ("--all",) if kind == "container" else ()
        listed = run("docker", kind, "ls", *every, "--filter", label, "--format", form).stdout.split()
        found += [f"{kind} {name}" for name in listed]
    return found


def inspect(service: str) -> dict[str, Any]:
    """Return what `docker inspect` prints for the container of a service."""
    container = compose("ps", "--all", "--quiet", service).stdout.strip()
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", container).stdout)
    return found[0]


def execute(service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the container of a service."""
    return compose("exec", "--no-TTY", service, *command, check=check)


def log_lines(service: str) -> list[dict[str, Any]]:
    """Return the log of one of our services."""
    text = compose("logs", "--no-color", "--no-log-prefix", service).stdout
    return [json.loads(line) for line in text.splitlines()]


_T = TypeVar("_T")


async def until(look: Callable[[], Awaitable[_T]], done: Callable[[_T], bool], seconds: float = 120) -> _T:
    """Call `look` until `done` accepts its result; return it, or fail with the last one."""
    deadline = time.monotonic() + seconds
    while True:
        result = await look()
        if done(result):
            return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s; last result: {result}"
        await asyncio.sleep(0.5)


@dataclass(frozen=True)
class Host:
    """The files with which the host reaches the stack, as `make compose-profile` copies them.

    Attributes:
        folder: Holds `profile.json` and `ca.crt`.
        profile: Content of `profile.json`.
    """

    folder: Path
    profile: Profile

    @property
    def ca_file(self) -> Path:
        """Authority of the certificates of the services."""
        return self.folder / "ca.crt"

    async def call(
        self,
        service: str,
        method: str,
        request: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Outcome:
        """Call an RPC and return its outcome."""
        found = find_method(SERVICES[service].descriptor, method)
        requests = parse_requests(found, json.dumps(request or {}))
        async with open_channel(self.profile, service) as channel:
            return await call_once(channel, found, requests, token=token, metadata=metadata)

    async def code(self, service: str, method: str, token: str | None = None) -> grpc.StatusCode:
        """Call an RPC and return its code."""
        return (await self.call(service, method, token=token)).code

    async def user_token(self, user: str = "alice", scope: str = EVERYTHING) -> str:
        """Return an access token of a user of the demo realm, by password."""
        return str((await self.login(user, scope))["access_token"])

    async def login(self, user: str, scope: str) -> dict[str, Any]:
        """Log a user of the demo realm in by password; return all that the token endpoint returns."""
        client = self.profile.console_client
        return await self._grant(
            grant_type="password", client_id=client, username=user, password=user, scope=scope
        )

    async def client_token(self, client: str = "gatehouse-worker", scope: str = "read:users") -> str:
        """Return an access token of a client."""
        secret = self.profile.clients[client].get_secret_value()
        granted = await self._grant(
            grant_type="client_credentials", client_id=client, client_secret=secret, scope=scope
        )
        return str(granted["access_token"])

    async def _grant(self, **form: str) -> dict[str, Any]:
        """Request a token, with a longer timeout than that of the services."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            url = f"{self.profile.issuer}/protocol/openid-connect/token"
            answer = await http.post(url, data={name: value for name, value in form.items() if value})
        assert answer.status_code == 200, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    def gatehouse(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `gatehouse` on the host."""
        environment = os.environ | {"GATEHOUSE_PROFILE": str(self.folder / "profile.json")}
        return subprocess.run(
            [sys.executable, "-m", "gatehouse", *arguments],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def port_of(service: str, inside: int) -> int:
    """Return the published port of a port of a service."""
    return int(compose("port", service, str(inside)).stdout.strip().rpartition(":")[2])


async def fetch_trace(trace_id: str) -> list[dict[str, Any]]:
    """Return the spans of a trace from Jaeger, each with its service as `service`."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{port_of('jaeger', 16686)}/api/traces/{trace_id}")
    if answer.status_code != 200:
        return []
    found: list[dict[str, Any]] = []
    for trace in answer.json()["data"]:
        names = {key: process["serviceName"] for key, process in trace["processes"].items()}
        found += [span | {"service": names[span["processID"]]} for span in trace["spans"]]
    return found


async def query_prometheus(query: str) -> list[dict[str, Any]]:
    """Run an instant query in the container of Prometheus and return its result."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}"
    answer = await asyncio.to_thread(execute, "prometheus", "wget", "-q", "-O", "-", url)
    body = json.loads(answer.stdout)
    assert body["status"] == "success", body
    found: list[dict[str, Any]] = body["data"]["result"]
    return found
