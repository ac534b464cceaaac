"""Start a test bed and control it from Python, for synchronous and asynchronous tests alike.

Each method is one request to a process on this machine that takes about a millisecond, so an asynchronous
test may call it as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatehouse.settings import environment
from gatehouse_testbed.bed.api import Api, ClockClient, FaultsClient
from gatehouse_testbed.bed.records import IssuerRequest, RecordedCall, RecordedSpan
from gatehouse_testbed.environments import child_environment
from gatehouse_testbed.errors import TestbedError

STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TokenKind:
    """A kind of token: whether a correct resource server accepts it, and what is wrong with it."""

    accepted: bool
    description: str


class Testbed:
    """A running test bed.

    Args:
        description: What the process has printed.

    Attributes:
        description: The argument.
        faults: The faults that are in effect.
        clock: The clock of issuer and services.
        issuer: Issuer URL.
        targets: gRPC target of each service, by its name.
        users: Id of the entry in UserService of each user of the realm, by user name.
        clients: Secrets of the clients of the realm, by client id.
        passwords: Passwords of the users of the realm, by user name.
    """

    __test__ = False  # pytest collects classes by the prefix of their name

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.description = description
        self._api = Api(description["control_url"])
        self.control_url: str = description["control_url"]
        self.issuer: str = description["issuer"]
        self.targets: Mapping[str, str] = description["targets"]
        self._ca_file: str = description["ca_file"]
        self.users: Mapping[str, str] = description["users"]
        self.clients: Mapping[str, str] = description["clients"]
        self.passwords: Mapping[str, str] = description["passwords"]
        self.faults = FaultsClient(self._api)
        self.clock = ClockClient(self._api)

    @property
    def ca_file(self) -> Path:
        """PEM file with the certificate authority of the services.

        Raises:
            ValueError: The test bed is only an issuer.
        """
        if not self._ca_file:
            raise ValueError("this test bed is only an issuer, which has no certificate")
        return Path(self._ca_file)

    def close(self) -> None:
        """Close the connections to the test bed, which keeps running."""
        self._api.close()

    def token(self, user: str | None = None, **content: Any) -> str:
        """Return a new access token, or what a client may send in its place.

        Args:
            user: User name; None for the service account of `client`.
            content: Attributes of TokenRequest in `gatehouse_testbed.bed.token_request`: client, scope,
                lifetime_seconds, algorithm, header, claims, and `name` for one of `token_kinds`.

        Raises:
            ValueError: There is no such user, client or kind of token.
        """
        token: str = self._api.ask("POST", "/tokens", {"user": user, **content})["token"]
        return token

    def token_kinds(self) -> Mapping[str, TokenKind]:
        """Return the kinds of tokens by their names, for a test of each."""
        return {name: TokenKind(**kind) for name, kind in self._api.ask("GET", "/tokens/kinds").items()}

    def revoke(self, token: str) -> None:
        """Revoke an access token."""
        self._api.ask("POST", "/tokens/revoke", {"token": token})

    def rotate_keys(self, *, overlap: bool = True) -> None:
        """Let the issuer sign with new keys.

        Args:
            overlap: Whether the keys that signed until now are still published and verify tokens.
        """
        self._api.ask("POST", "/issuer/keys/rotate", {"overlap": overlap})

    def calls(self, method: str = "", at_least: int = 0) -> Sequence[RecordedCall]:
        """Return the calls that the services received, in the order in which they ended.

        Args:
            method: `package.Service/Method` or `Method`; "" for all.
            at_least: Wait up to 5 seconds until there are so many. A call whose client has ended it, or whose
                connection is closed, is recorded shortly after.
        """
        found = self._api.ask("GET", "/calls", method=method, at_least=str(at_least))
        return [RecordedCall(**call) for call in found]

    def spans(self, trace_id: str = "", name: str = "") -> Sequence[RecordedSpan]:
        """Return the spans of the services, in the order in which they ended.

        Args:
            trace_id: Of the trace; "" for all.
            name: Of the span, or `Method` for that of an RPC; "" for all.
        """
        found = self._api.ask("GET", "/spans", trace_id=trace_id, name=name)
        return [RecordedSpan(**span) for span in found]

    def logs(self, trace_id: str = "") -> Sequence[Mapping[str, Any]]:
        """Return the newest lines of the log of the services; they are written shortly after a call ends.

        Args:
            trace_id: Of the trace; "" for all.
        """
        lines: Sequence[Mapping[str, Any]] = self._api.ask("GET", "/logs", trace_id=trace_id)
        return lines

    def issuer_requests(self, endpoint: str = "") -> Sequence[IssuerRequest]:
        """Return the requests that the issuer received, in the order of their arrival.

        Args:
            endpoint: One of the endpoints of `gatehouse_testbed.bed.endpoints`; "" for all.
        """
        query = {"endpoint": endpoint} if endpoint else {}
        found = self._api.ask("GET", "/issuer/requests", **query)
        return [IssuerRequest(**request) for request in found]

    def reset(self) -> None:
        """Undo all that a test has changed: faults, clock, issuer and tables; forget what was recorded."""
        self._api.ask("POST", "/reset")


@contextmanager
def run_testbed(*arguments: str) -> Iterator[Testbed]:
    """Run a test bed in a separate process until the context ends.

    It also ends with this process, however that happens.

    Args:
        arguments: Further arguments of `gatehouse testbed`.

    Raises:
        TestbedError: It does not start.
    """
    # Nobody reads its errors while it runs, so a pipe could become full.
    errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see finally
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", "gatehouse", "testbed", *arguments],
        env=child_environment(environment()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        # Ctrl-C reaches only this process, which stops the test bed at the end of its tests.
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        line = process.stdout.readline()
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            errors.seek(0)
            reason = errors.read().strip().removeprefix("gatehouse: ")
            raise TestbedError(f"the test bed does not start: {reason or 'no output'}")
        testbed = Testbed(json.loads(line))
        try:
            yield testbed
        finally:
            testbed.close()
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        errors.close()
