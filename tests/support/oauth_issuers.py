"""A small real issuer over loopback HTTP for the tests of `oauth`: it counts, fails, hangs and rotates."""

from __future__ import annotations

import asyncio
import base64
import functools
import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "gatehouse-api"
CLIENT_ID = "gatehouse-api"
CLIENT_SECRET = "canary:secret of the api%"
EPOCH = 1_800_000_000.0


def b64(raw: bytes) -> str:
    """Encodes base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Returns as soon as `condition` holds, and fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.001)


class ManualTime:
    """A clock that moves when told; who sleeps by it wakes when it has moved far enough."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.elapsed

    def monotonic(self) -> float:
        """Seconds since some moment that is not zero."""
        return 5_000.0 + self.elapsed

    @property
    def pauses(self) -> list[float]:
        """How long each sleeper has still to sleep, shortest first."""
        return sorted(at - self.elapsed for at, _, future in self._sleepers if not future.done())

    async def sleep(self, seconds: float) -> None:
        """Sleeps by this clock."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Moves the clock and wakes whoever is due."""
        self.elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self.elapsed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


@functools.cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """Makes an RSA key, once for each number."""
    del number
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class SigningKey:
    """A key pair with its name and algorithm."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)

    @classmethod
    def make(cls, kid: str, algorithm: str = "ES256") -> SigningKey:
        """Makes a key for `algorithm`."""
        if algorithm == "EdDSA":
            return cls(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
        if algorithm.startswith("ES"):
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            return cls(kid, algorithm, ec.generate_private_key(curves[algorithm]))
        return cls(kid, algorithm, rsa_key())

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Returns the public key as a JWK; a change to None leaves a member out."""
        public: Any = jwt.get_algorithm_by_name(self.algorithm).to_jwk(
            self.private.public_key(), as_dict=True
        )
        public.pop("key_ops", None)
        public |= {"kid": self.kid, "alg": self.algorithm, "use": "sig"} | changes
        return {name: value for name, value in public.items() if value is not None}

    def sign(
        self, payload: Mapping[str, Any] | bytes, header: Mapping[str, Any] | bytes | None = None
    ) -> str:
        """Signs `payload` under `header`; both may be raw bytes, to be as wrong as a test wants them."""
        if header is None:
            header = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid}
        parts = [b64(p if isinstance(p, bytes) else json.dumps(p).encode()) for p in (header, payload)]
        signed = ".".join(parts)
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signed.encode(), self.private)
        return f"{signed}.{b64(signature)}"


@dataclass(frozen=True)
class Request:
    """What an issuer was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    form: Mapping[str, str]

    @property
    def basic(self) -> tuple[str, str]:
        """Client id and secret of the Basic credentials, decoded as RFC 6749 section 2.3.1 has it."""
        scheme, _, value = self.headers["authorization"].partition(" ")
        assert scheme == "Basic"
        client, _, secret = base64.b64decode(value).decode().partition(":")
        return unquote_plus(client), unquote_plus(secret)


@dataclass
class Reply:
    """What an issuer answers; `body` as JSON unless it is bytes.

    `stream` goes out piece by piece, until it ends or nobody listens; `raw` instead of an answer in HTTP.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    stream: AsyncGenerator[bytes] | None = None
    raw: bytes | None = None


Answerer = Callable[[Request], Reply | Awaitable[Reply]]


class LoopbackIssuer:
    """An issuer at work on loopback; every endpoint can be counted, replaced, held up, or taken down.

    Args:
        clock: Seconds since the epoch, for the claims that it makes.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.port = 0
        self.keys: list[SigningKey] = [SigningKey.make("key-1")]
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.introspections: dict[str, dict[str, Any]] = {}
        self.answerers: dict[str, Answerer] = {
            "/realms/test/.well-known/openid-configuration": lambda _: Reply(self.metadata()),
            "/realms/test/jwks": lambda _: Reply(self.jwks()),
            "/realms/test/introspect": self._introspect,
            "/realms/test/token": self._token,
            "/realms/test/revoke": lambda _: Reply(),
        }
        self._gates: dict[str, asyncio.Event] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._number = itertools.count(1)

    # What it is.

    @property
    def issuer(self) -> str:
        """Its name."""
        return f"http://127.0.0.1:{self.port}/realms/test"

    def url(self, name: str) -> str:
        """Address of the endpoint `name`, such as `token`."""
        return f"{self.issuer}/{name}"

    def metadata(self) -> dict[str, Any]:
        """Its metadata (RFC 8414)."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.url("jwks"),
            "token_endpoint": self.url("token"),
            "introspection_endpoint": self.url("introspect"),
            "revocation_endpoint": self.url("revoke"),
            "authorization_endpoint": self.url("auth"),
            "response_types_supported": ["code"],
        }

    def jwks(self) -> dict[str, Any]:
        """Its public keys."""
        return {"keys": [key.jwk() for key in self.keys]}

    def rotate(self, algorithm: str = "ES256", *, keep: bool = True) -> SigningKey:
        """Signs with a new key from now on; the old ones stay published when `keep` is set."""
        key = SigningKey.make(f"key-{len(self.keys) + 1}-{next(self._number)}", algorithm)
        self.keys = [key, *self.keys] if keep else [key]
        return key

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims of a good access token in Keycloak's shape; a change to `...` leaves a claim out."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "exp": now + 300,
            "iat": now,
            "jti": f"token-{next(self._number)}",
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "00000000-0000-4000-8000-0000000a11ce",
            "typ": "Bearer",
            "azp": "gatehouse-console",
            "acr": "1",
            "scope": "read:users",
            "realm_access": {"roles": ["user"]},
        } | changes
        return {name: value for name, value in claims.items() if value is not ...}

    def sign(self, **changes: Any) -> str:
        """Signs claims with the newest key, and says nothing of them at introspection."""
        return self.keys[0].sign(self.claims(**changes))

    def grant(self, **changes: Any) -> str:
        """Signs claims with the newest key; they introspect as active."""
        claims = self.claims(**changes)
        token = self.keys[0].sign(claims)
        self.activate(token, claims)
        return token

    def activate(self, token: str, claims: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """Has `token` introspect as active with `claims`, those of a good token when None."""
        answer = dict(self.claims() if claims is None else claims) | changes
        self.introspections[token] = {
            "active": True,
            **{name: value for name, value in answer.items() if value is not ...},
        }

    def revoke(self, token: str) -> None:
        """Has `token` introspect as inactive."""
        self.introspections.pop(token, None)

    # How it answers.

    def answer(self, name: str, reply: Reply | Answerer) -> None:
        """Has the endpoint `name` (or path) answer so from now on."""
        path = name if name.startswith("/") else f"/realms/test/{name}"
        self.answerers[path] = (lambda _: reply) if isinstance(reply, Reply) else reply

    def hold(self, name: str) -> None:
        """Has requests to the endpoint `name` wait from now on."""
        self._gates[f"/realms/test/{name}"] = asyncio.Event()

    def release(self, name: str) -> None:
        """Lets the waiting requests go on."""
        self._gates.pop(f"/realms/test/{name}").set()

    def asked(self, name: str) -> int:
        """How many requests the endpoint `name` has had."""
        return self.counts[f"/realms/test/{name}"]

    def last(self, name: str) -> Request:
        """The newest request of the endpoint `name`."""
        return next(r for r in reversed(self.requests) if r.path == f"/realms/test/{name}")

    def _introspect(self, request: Request) -> Reply:
        if request.basic != (CLIENT_ID, CLIENT_SECRET):
            return Reply({"error": "invalid_client"}, 401)
        return Reply(self.introspections.get(request.form["token"], {"active": False}))

    def _token(self, request: Request) -> Reply:
        del request
        return Reply({"access_token": self.grant(), "token_type": "Bearer", "expires_in": 300})

    # How it is there.

    async def up(self) -> None:
        """Begins to listen, on the port that it had."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Ceases to listen and breaks off every connection."""
        if self._server is None:
            return
        self._server.close()
        await self._server.wait_closed()
        self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read(reader):
                self.requests.append(request)
                self.counts[request.path] += 1
                gate = self._gates.get(request.path)
                if gate is not None:
                    await gate.wait()
                answerer: Any = self.answerers.get(request.path, lambda _: Reply(b"", 404))
                reply = answerer(request)
                if isinstance(reply, Awaitable):
                    reply = await reply
                if reply.hang_up:
                    return
                if reply.raw is not None or reply.stream is not None:
                    await _write_oddly(writer, reply)
                    return
                await _write(writer, reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target.partition("?")[0], headers, dict(parse_qsl(body.decode(), True)))


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{k}: {v}" for k, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def _write_oddly(writer: asyncio.StreamWriter, reply: Reply) -> None:
    if reply.raw is not None:
        writer.write(reply.raw)
    if reply.stream is not None:
        headers = {"content-type": "application/json", "connection": "close", **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Status", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        async with aclosing(reply.stream):
            async for piece in reply.stream:
                writer.write(piece)
                await writer.drain()
    await writer.drain()


@asynccontextmanager
async def loopback_issuer(clock: Callable[[], float] = time.time) -> AsyncIterator[LoopbackIssuer]:
    """Runs a LoopbackIssuer."""
    issuer = LoopbackIssuer(clock)
    await issuer.up()
    try:
        yield issuer
    finally:
        await issuer.down()
