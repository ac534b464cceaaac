"""Check another gRPC server: does it refuse every credential that a resource server must refuse?

The development issuer runs on a known port, and the server trusts it. One of its RPCs is called with each
named token and with malformed metadata, and an empty request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from rich.table import Table
from rich.text import Text

from gatehouse_testbed.bed.clock import MovableClock
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.issuer import IssuerApp
from gatehouse_testbed.bed.token_request import TokenRequest
from gatehouse_testbed.bed.tokens import NAMED_TOKENS, TokenFactory
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Mapper, Realm
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.web import listen, serve_app

CALL_SECONDS = 10.0
_AUDIENCE_MAPPER = "oidc-audience-mapper"
_IN_TOKENS = {"access.token.claim": "true", "introspection.token.claim": "true"}
Entries = tuple[tuple[str, str], ...]
_CODE = grpc.StatusCode
_REFUSED = {_CODE.UNAUTHENTICATED, _CODE.PERMISSION_DENIED}
# Says neither that the credentials were accepted nor that they were refused.
_UNCLEAR = {
    _CODE.UNAVAILABLE,
    _CODE.DEADLINE_EXCEEDED,
    _CODE.CANCELLED,
    _CODE.RESOURCE_EXHAUSTED,
    _CODE.INTERNAL,
    _CODE.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Target:
    """The server to check.

    Attributes:
        address: gRPC target.
        method: `/package.Service/Method` of an RPC that `token` may call.
        ca_file: Certificate authority of the server; that of the system if None.
        plaintext: Whether it has no TLS.
        audience: Audience that it expects.
        token: User or client, and scopes, of a good token.
    """

    address: str
    method: str
    ca_file: Path | None
    plaintext: bool
    audience: str
    token: TokenRequest


@dataclass(frozen=True, slots=True)
class Result:
    """How the server answered one case.

    Attributes:
        name: Name of the case.
        description: What is wrong with the credentials.
        accepted: Whether a correct server accepts them.
        code: Status of the call.
        challenge: `www-authenticate` in the trailing metadata, or "" (RFC 6750 section 3).
    """

    name: str
    description: str
    accepted: bool
    code: grpc.StatusCode
    challenge: str

    @property
    def verdict(self) -> str:
        """`ok`, `unclear`, or what the server does wrong."""
        if self.code in _UNCLEAR:
            return "unclear"
        was_accepted = self.code not in _REFUSED
        if was_accepted == self.accepted:
            return "ok"
        return "ACCEPTED" if was_accepted else "refused"


def cases(factory: TokenFactory, token: TokenRequest) -> list[tuple[str, str, bool, Entries]]:
    """Return the name, description, whether it is accepted, and the metadata of each case."""
    valid = factory.make(token)
    found = [
        (
            name,
            kind.description,
            kind.accepted,
            _bearer(factory.make(token.model_copy(update={"name": name}))),
        )
        for name, kind in NAMED_TOKENS.items()
    ]
    expired = factory.make(token.model_copy(update={"name": "expired"}))
    found += [
        ("lower_case_scheme", "`bearer` (RFC 9110 section 11.1)", True, _header(f"bearer {valid}")),
        ("no_credentials", "no `authorization`", False, ()),
        ("empty", "an empty `authorization`", False, _header("")),
        ("no_scheme", "a good token without a scheme", False, _header(valid)),
        ("no_token", "the scheme only", False, _header("Bearer")),
        ("other_scheme", "a good token with the scheme Basic", False, _header(f"Basic {valid}")),
        ("two_tokens", "two tokens in one value", False, _header(f"Bearer {valid} {valid}")),
        ("comma", "two credentials in one value", False, _header(f"Bearer {expired}, Bearer {valid}")),
        ("bad_before_good", "two entries, the first expired", False, _bearer(expired) + _bearer(valid)),
        ("good_before_bad", "two entries, the second expired", False, _bearer(valid) + _bearer(expired)),
        ("other_key", "a good token in another entry", False, (("x-authorization", f"Bearer {valid}"),)),
    ]
    return found


def _header(value: str) -> Entries:
    return (("authorization", value),)


def _bearer(token: str) -> Entries:
    return _header(f"Bearer {token}")


@asynccontextmanager
async def _open(target: Target) -> AsyncIterator[grpc.aio.Channel]:
    if target.plaintext:
        channel = grpc.aio.insecure_channel(target.address)
    else:
        try:
            authority = None if target.ca_file is None else target.ca_file.read_bytes()
        except OSError as error:
            raise TestbedError(
                f"{target.ca_file}: cannot be read ({error.strerror}); set --ca-file"
            ) from None
        channel = grpc.aio.secure_channel(target.address, grpc.ssl_channel_credentials(authority))
    async with channel:
        yield channel


async def _call(channel: grpc.aio.Channel, method: str, metadata: Entries) -> tuple[grpc.StatusCode, str]:
    """Send one empty message and return the status, OK as soon as there is a response, and the challenge."""
    # All types of RPC look the same on the wire.
    call_method: Any = channel.unary_stream(method)
    call = call_method(b"", metadata=metadata, timeout=CALL_SECONDS)
    try:
        if await call.read() is not grpc.aio.EOF:
            call.cancel()
            return _CODE.OK, ""
    except grpc.aio.AioRpcError:
        pass
    trailers = await call.trailing_metadata() or ()
    challenge = next((str(value) for key, value in trailers if key == "www-authenticate"), "")
    return await call.code(), challenge


async def check(realm: Realm, target: Target, *, issuer_port: int, wait_seconds: float) -> list[Result]:
    """Run the issuer, and check the server when it accepts a good token.

    Args:
        realm: Realm of the issuer.
        target: The server.
        issuer_port: Port of the issuer.
        wait_seconds: How long the server may take until it accepts a good token.

    Raises:
        TestbedError: The server does not accept a good token, or the port is taken.
    """
    listener = listen(HOST, issuer_port)
    issuer = IssuerApp(
        _with_audience(realm, target.audience), f"http://{HOST}:{issuer_port}", MovableClock(), Faults()
    )
    factory = TokenFactory(issuer.tokens, SigningKeys.create())
    async with serve_app(issuer, listener), _open(target) as channel:
        deadline = time.monotonic() + wait_seconds
        while True:
            code, _ = await _call(channel, target.method, _bearer(factory.make(target.token)))
            if code is _CODE.UNIMPLEMENTED:
                raise TestbedError(f"{target.method}: the server has no such RPC; check --method")
            if code not in _REFUSED | _UNCLEAR:
                break
            if time.monotonic() > deadline:
                raise TestbedError(_not_accepted(code, issuer.tokens.issuer, target))
            await asyncio.sleep(0.2)
        return [
            Result(name, description, accepted, *await _call(channel, target.method, metadata))
            for name, description, accepted, metadata in cases(factory, target.token)
        ]


def _with_audience(realm: Realm, audience: str) -> Realm:
    """Return a realm whose tokens have a further audience wherever they have one."""
    config = {"included.custom.audience": audience, **_IN_TOKENS}
    mapper = Mapper.model_validate({"protocolMapper": _AUDIENCE_MAPPER, "config": config})
    changed = realm.model_copy(deep=True)
    for scope in changed.scopes.values():
        if any(one.protocol_mapper == _AUDIENCE_MAPPER for one in scope.protocol_mappers):
            scope.protocol_mappers = [*scope.protocol_mappers, mapper]
    return changed


def _not_accepted(code: grpc.StatusCode, issuer: str, target: Target) -> str:
    if code is _CODE.UNAVAILABLE:
        return f"{target.address}: {code.name} for a good token; check --target, --ca-file or --plaintext"
    if code is _CODE.PERMISSION_DENIED:
        return (
            f"{target.method}: {code.name} for a good token; name an RPC that the token may call, or change "
            "--user, --client or --scope"
        )
    return (
        f"{target.method}: {code.name} for a good token; let the server trust the issuer {issuer} and the "
        f"audience {target.audience}"
    )


def table(results: Sequence[Result]) -> Table:
    """Return a row for each case."""
    found = Table(box=None, pad_edge=False)
    for title in ("case", "must be", "status", "verdict", "what it is"):
        found.add_column(title)
    styles = {"ok": "green", "unclear": "yellow", "refused": "yellow", "ACCEPTED": "bold red"}
    for one in results:
        must = "accepted" if one.accepted else "refused"
        verdict = Text(one.verdict, styles[one.verdict])
        found.add_row(one.name, must, one.code.name, verdict, Text(one.description, "dim"))
    return found
