"""Faults that a test adds: of RPCs, of the issuer, of the database and of the network."""

from __future__ import annotations

import asyncio
import random
import sys
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from gatehouse_testbed.bed.endpoints import ENDPOINTS

ISSUER, DATABASE, NETWORK = "issuer/", "database", "network/"
Code = Literal[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
Certificate = Literal["expired", "wrong_name", "unknown_authority"]


class _Fault(BaseModel):
    """What all faults have."""

    model_config = ConfigDict(extra="forbid")

    times: int | None = Field(None, ge=1)
    """How often it occurs; without end if unset."""
    probability: float = Field(1.0, gt=0, le=1)
    """Share of the matching requests that it affects."""
    seed: int = 0
    """Makes the choice of these requests repeatable."""
    _random: random.Random = PrivateAttr()
    _is_removed: bool = PrivateAttr(default=False)
    _waiting: set[asyncio.Event] = PrivateAttr(default_factory=set)

    def model_post_init(self, _: object) -> None:
        """Seed the choice of requests."""
        self._random = random.Random(self.seed)  # noqa: S311 - a repeatable choice protects nothing

    def end(self) -> None:
        """Let requests that wait for it go on, as it is removed."""
        self._is_removed = True
        for event in self._waiting:
            event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for some time, without end if None, but not longer than until it is removed."""
        if seconds == 0 or self._is_removed:
            return
        event = asyncio.Event()
        self._waiting.add(event)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        try:
            self.model_dump_json()
        except ValueError:
            raise ValueError("has a string that is not Unicode text") from None
        return self

    def happens(self) -> bool:
        """Return whether it affects this request, and count it."""
        if self.times == 0 or (self.probability < 1 and self._random.random() >= self.probability):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class RpcFault(_Fault):
    """Calls end with a status, without one, late, or never."""

    target: str
    """`package.Service/Method`, `Method`, or a pattern such as `gatehouse.users.v1.UserService/*`."""
    code: Code | None = None
    """Status of the call; OK, with `after_messages`, ends a stream early."""
    message: str = "injected fault"
    """Message of the status."""
    reason: str = "INJECTED_FAULT"
    """`reason` of the ErrorInfo in the details of the status."""
    details: list[dict[str, Any]] = Field(default_factory=list)
    """Further details of the status: messages of google.rpc as JSON, each with `@type`."""
    delay_seconds: float = Field(0.0, ge=0, le=600)
    """Time before the call is handled."""
    hang: bool = False
    """Whether the call waits until the fault is removed, or until its deadline."""
    disconnect: bool = False
    """Whether the connection is closed, with all its calls, in place of a status."""
    acr: str = Field("", pattern=r"^[\x21\x23-\x5B\x5D-\x7E]*$")
    """Class of the login (RFC 9470) that the call needs, as if its rule had this `acr`."""
    max_age: int | None = Field(None, ge=0)
    """Age of the login in seconds (RFC 9470) that the call allows, as if its rule had this `max_age`."""
    after_messages: int | None = Field(None, ge=1)
    """The call ends as above after this number of responses of a stream. 1 also ends an RPC with one response
    after it was handled: its effects remain, and the response is lost."""
    caller: str | None = None
    """User name, client id or `sub` of the only caller that it affects."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs_login = bool(self.acr) or self.max_age is not None
        if sum((self.code is not None, self.hang, self.disconnect)) > 1:
            raise ValueError("set only one of code, hang and disconnect")
        if needs_login and self.ends_call:
            raise ValueError("acr and max_age decide how the call ends; remove code, hang and disconnect")
        if not (self.ends_call or self.delay_seconds or needs_login):
            raise ValueError("has no effect; set code, delay_seconds, hang, disconnect, acr or max_age")
        if not self.ends_call and self.after_messages is not None:
            raise ValueError("after_messages needs code, hang or disconnect")
        if self.code == "OK" and self.after_messages is None:
            raise ValueError("code OK needs after_messages")
        if self.details:
            # Imported here because an issuer alone needs no protobuf.
            from gatehouse_testbed.bed.details import parse_details  # noqa: PLC0415

            parse_details(self.details)
        return self

    @property
    def ends_call(self) -> bool:
        """Whether it does more than to delay a call."""
        return self.code is not None or self.hang or self.disconnect

    def matches(self, path: str, callers: frozenset[str]) -> bool:
        """Return whether it affects calls of `/package.Service/Method` by any of these names of a caller."""
        return self.names(path[1:]) and (self.caller is None or self.caller in callers)

    def names(self, method: str) -> bool:
        """Return whether the target names `package.Service/Method`."""
        return fnmatchcase(method if "/" in self.target else method.rpartition("/")[2], self.target)


class IssuerFault(_Fault):
    """Requests to the issuer fail, are answered late or never, or get a wrong answer."""

    target: Annotated[str, Field(pattern="^issuer/")]
    """`issuer/` and an endpoint: discovery, jwks, authorization, login, token, introspection, revocation,
    userinfo, logout, device, admin, other, or *."""
    status: int | None = Field(None, ge=400, le=599)
    """HTTP status of the response, whose body is HTML."""
    retry_after: int | None = Field(None, ge=0)
    """Seconds in the header Retry-After."""
    delay_seconds: float = Field(0.0, ge=0, le=600)
    """Time before the request is handled."""
    hang: bool = False
    """Whether the request waits until the fault is removed."""
    refuse: bool = False
    """Whether the connection is closed without an answer."""
    response: dict[str, Any] = Field(default_factory=dict)
    """Members of the JSON of a response that are replaced, such as `{"active": false}`, `{"keys": []}`
    or `{"issuer": "https://other.example"}`."""
    html: bool = False
    """Whether the answer is an HTML page with status 200 in place of JSON."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target.removeprefix(ISSUER) not in {"*", *ENDPOINTS}:
            raise ValueError(f"unknown endpoint; use issuer/ and one of {', '.join(ENDPOINTS)}, *")
        effects = (self.status, self.delay_seconds, self.hang, self.refuse, self.response, self.html)
        if not any(effects):
            raise ValueError("has no effect; set status, delay_seconds, hang, refuse, response or html")
        return self

    def matches(self, endpoint: str) -> bool:
        """Return whether it affects requests to an endpoint."""
        return self.target.removeprefix(ISSUER) in {"*", endpoint}


class DatabaseFault(BaseModel):
    """The database is stopped, or hangs, until the fault is removed."""

    model_config = ConfigDict(extra="forbid")

    target: Literal["database"]
    state: Literal["down", "hanging"] = "down"
    """`down`: connections are refused. `hanging`: statements are not answered."""


class NetworkFault(_Fault):
    """TCP connections to a part are slow, silent, reset or refused; those that are open, and new ones.

    `times` and `probability` count connections, and are for new ones only.
    """

    target: Annotated[str, Field(pattern="^network/")]
    """`network/` and a part: the name of a service, `issuer` or `database`."""
    delay_seconds: float = Field(0.0, ge=0, le=600)
    """Time by which bytes arrive later, in each direction."""
    bytes_per_second: int | None = Field(None, ge=1)
    """Bandwidth of a connection, in each direction."""
    reset: bool = False
    """Whether the connection is accepted and reset (RST) at once."""
    reset_after_bytes: int | None = Field(None, ge=1)
    """The connection is reset after this number of bytes was sent to the client."""
    blackhole: bool = False
    """Whether connections stay open and nothing arrives, as if all packets were lost."""
    refuse: bool = False
    """Whether new connections are refused, as if nothing listened; open ones are reset."""
    certificate: Certificate | None = None
    """What is wrong with the certificate that a service presents. Open connections are reset."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        effects = self.model_dump(exclude={"target", "times", "probability", "seed"})
        if not any(effects.values()):
            raise ValueError(f"has no effect; set one of {', '.join(effects)}")
        if self.refuse and not self.is_for_all:
            raise ValueError("refuse is for all connections; use reset with times or probability")
        return self

    @property
    def is_for_all(self) -> bool:
        """Whether it affects all connections, also those that are open."""
        return self.times is None and self.probability == 1

    @property
    def closes(self) -> bool:
        """Whether no connection stays open."""
        return self.reset or self.refuse

    @property
    def piece_bytes(self) -> int:
        """The most that arrives at once."""
        return sys.maxsize if self.bytes_per_second is None else max(1, self.bytes_per_second // 50)
