"""Clients in other languages: built once into a cache, then driven by JSON lines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support.toolchains import cached, find_tool, npm_ci, run_tool

FOLDER = Path(__file__).parent
NEEDS = "Go 1.26 and Node 20 or later"
SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """A call for a foreign client.

    Attributes:
        target: `host:port` of the service.
        method: Path of the RPC.
        requests: The requests as JSON. In a bidirectional stream, each is sent after the response to the one
            before.
        client: The client whose token the OAuth library requests: `id`, `secret` and `scope`.
        token: An access token; None for no token unless `client` is set.
        timeout: Deadline in seconds.
        limit: Stop after this number of responses; 0 for no limit.
        keeps_open: Send no end of the requests.
        gzip: Compress the requests.
    """

    target: str
    method: str
    requests: Sequence[Mapping[str, Any]] = ({},)
    client: Mapping[str, str] | None = None
    token: str | None = None
    timeout: float = SECONDS
    limit: int = 0
    keeps_open: bool = False
    gzip: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a call ended, as the library of the language shows it.

    Attributes:
        code: Status code.
        message: Status message.
        details: Error details by type.
        challenge: Values of `www-authenticate`.
        responses: The responses as JSON.
    """

    code: grpc.StatusCode
    message: str
    details: Mapping[str, Any]
    challenge: Sequence[str]
    responses: Sequence[Any] = field(repr=False)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line of a client's output."""
        found = json.loads(line)
        code = next(code for code in grpc.StatusCode if code.value[0] == found["code"])
        details = {one["type"]: one["value"] for one in found["details"] or ()}
        return cls(code, found["message"], details, found["challenge"] or [], found["responses"] or [])


class ForeignClient:
    """A running client.

    Args:
        command: The client with its flags.
        environment: Its environment.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=SECONDS)

    def call(self, call: Call) -> Outcome:
        """Make a call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(call)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client has ended with {self._process.wait(SECONDS)}"
        return Outcome.parse(line)


def build_go() -> list[str | Path]:
    """Return the command of the Go client.

    Raises:
        Missing: Go is missing, or the client cannot be compiled.
    """
    go = find_tool("go", NEEDS)

    def build(folder: Path) -> None:
        run_tool(folder, {"GOFLAGS": "-mod=readonly", "GOWORK": "off"}, go, "build", "-o", "client", ".")

    return [_cached("go", build) / "client"]


def build_node() -> list[str | Path]:
    """Return the command of the Node client.

    Raises:
        Missing: Node or npm is missing, or the packages cannot be installed.
    """
    node, npm = find_tool("node", NEEDS), find_tool("npm", NEEDS)
    return [node, _cached("node", lambda folder: npm_ci(folder, npm)) / "client.js"]


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    return cached(f"interop-{name}", filter(Path.is_file, (FOLDER / name).iterdir()), build)
