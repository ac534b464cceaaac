"""The HTTP API with which a test controls the test bed. `openapi.json` describes it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Path, Query
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from gatehouse_testbed.bed.bed import Bed
from gatehouse_testbed.bed.endpoints import Endpoint
from gatehouse_testbed.bed.fault_list import Fault
from gatehouse_testbed.bed.messages import (
    Advance,
    BedDescription,
    Clock,
    FaultId,
    Rotation,
    Skew,
    Token,
    TokenKind,
    describe,
)
from gatehouse_testbed.bed.records import IssuerRequest, RecordedCall, RecordedSpan
from gatehouse_testbed.bed.token_request import TokenRequest, UnknownName
from gatehouse_testbed.bed.tokens import NAMED_TOKENS
from gatehouse_testbed.errors import TestbedError

CALLS_SECONDS = 5.0
CALLS_POLL_SECONDS = 0.005


class _Endpoints:
    """The endpoints of the API.

    Args:
        bed: The test bed; None only for the description of the API.
        control_url: URL of the server.
    """

    def __init__(self, bed: Bed | None, control_url: str) -> None:
        self._given = bed
        self._control_url = control_url

    @property
    def _bed(self) -> Bed:
        assert self._given is not None  # noqa: S101 - only a running test bed answers requests
        return self._given

    async def description(self) -> BedDescription:
        """Return addresses, certificates and secrets."""
        return describe(self._bed, self._control_url)

    async def reset(self) -> None:
        """Undo all that a test has changed: faults, clock, issuer and tables; forget what was recorded."""
        await self._bed.reset()

    async def make_token(self, request: TokenRequest) -> Token:
        """Make an access token, or what a client may send in its place."""
        return Token(token=self._bed.tokens().make(request))

    async def revoke_token(self, token: Token) -> None:
        """Revoke an access token."""
        self._bed.tokens().revoke(token.token)

    async def token_kinds(self) -> dict[str, TokenKind]:
        """Return all kinds of tokens by their names."""
        return {
            name: TokenKind(accepted=kind.accepted, description=kind.description)
            for name, kind in NAMED_TOKENS.items()
        }

    async def add_fault(self, fault: Fault) -> FaultId:
        """Add a fault of an RPC, of the issuer, of the database or of the network."""
        return FaultId(id=await self._bed.add_fault(fault))

    async def faults(self) -> dict[str, Fault]:
        """Return the faults that are in effect by their ids, oldest first."""
        return self._bed.faults.all()

    async def remove_faults(self) -> None:
        """Remove all faults."""
        await self._bed.remove_faults()

    async def remove_fault(self, name: Annotated[str, Path(description="Id of the fault.")]) -> None:
        """Remove a fault."""
        try:
            await self._bed.remove_fault(name)
        except KeyError:
            raise HTTPException(404, f"{name}: no such fault; GET /faults lists them") from None

    async def clock(self) -> Clock:
        """Return how far the clock is ahead."""
        clock = self._bed.clock
        return Clock(ahead_seconds=clock.ahead_seconds, issuer_skew_seconds=clock.issuer_skew_seconds)

    async def advance_clock(self, by: Advance) -> Clock:
        """Move the clock of issuer and services forward."""
        self._bed.clock.advance(by.seconds)
        return await self.clock()

    async def skew_clock(self, skew: Skew) -> Clock:
        """Make the clock of the issuer wrong."""
        self._bed.clock.skew_issuer(skew.seconds)
        return await self.clock()

    async def rotate_keys(self, rotation: Rotation) -> None:
        """Replace the signing keys of the issuer."""
        self._bed.issuer.rotate_keys(overlap=rotation.overlap)

    async def spans(
        self,
        trace_id: Annotated[str, Query(description="Those of all traces if it is empty.")] = "",
        name: Annotated[
            str, Query(description="Name of the span, or `Method` for that of an RPC; all if it is empty.")
        ] = "",
    ) -> list[RecordedSpan]:
        """Return the spans of the services, in the order in which they ended."""
        return [*self._bed.seen.spans_of(trace_id, name)]

    async def logs(
        self, trace_id: Annotated[str, Query(description="Those of all traces if it is empty.")] = ""
    ) -> list[dict[str, Any]]:
        """Return the newest lines of the log of the services.

        A last one counts lines that are not JSON, if there are any.
        """
        log = self._bed.seen.log
        return [] if log is None else log.lines(trace_id)

    async def calls(
        self,
        method: Annotated[str, Query(description="`package.Service/Method` or `Method`.")] = "",
        at_least: Annotated[
            int, Query(ge=0, description="Wait up to 5 seconds until there are so many calls.")
        ] = 0,
    ) -> list[RecordedCall]:
        """Return the calls that the services received, in the order in which they ended.

        A call whose client has ended it, or whose connection is closed, is recorded shortly after.
        """
        deadline = time.monotonic() + CALLS_SECONDS
        while True:
            found = [*self._bed.seen.calls_of(method)]
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            await asyncio.sleep(CALLS_POLL_SECONDS)

    async def issuer_requests(
        self,
        endpoint: Annotated[Endpoint | None, Query(description="Those of all endpoints if unset.")] = None,
    ) -> list[IssuerRequest]:
        """Return the requests that the issuer received, in the order of their arrival."""
        return [one for one in self._bed.issuer.requests if endpoint in {None, one.endpoint}]


def _only_for_programs(control_url: str) -> Callable[[Request], Awaitable[None]]:
    """Return a check that refuses what a browser sends for a web page, which could change the test bed."""
    names = {"127.0.0.1", "::1", "localhost", urlsplit(control_url).hostname}

    async def check(request: Request) -> None:
        # A browser that was misled by DNS rebinding sends another name.
        if request.url.hostname not in names:
            raise HTTPException(400, f"unknown host; use {control_url}")
        if "origin" in request.headers:
            raise HTTPException(403, "requests of web pages are refused")

    return check


def _problem(status: int, detail: Any) -> Response:
    # JSONResponse fails for text from the request that is not Unicode; this escapes it.
    return Response(json.dumps({"detail": detail}), status, media_type="application/json")


async def _unknown(_: Request, error: Exception) -> Response:
    return _problem(404, str(error))


async def _invalid(_: Request, error: Exception) -> Response:
    return _problem(400, str(error))


async def _refuse_unknown_parameters(request: Request) -> None:
    """Refuse misspelled parameters, which would select nothing."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    unknown = request.query_params.keys() - known
    if unknown:
        raise HTTPException(400, f"{', '.join(sorted(unknown))}: unknown parameter; see /openapi.json")


async def _not_as_described(request: Request, error: Any) -> Response:
    """Say what is wrong where, as FastAPI does, but without the content of the request."""
    sent = request.headers.get("content-type", "")
    if request.method == "POST" and not sent.startswith("application/json"):
        return _problem(415, "send JSON, with the header `content-type: application/json`")
    return _problem(422, [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()])


async def _failed(_: Request, error: Exception) -> Response:
    return _problem(503, str(error))


def create_control_app(bed: Bed | None, control_url: str) -> FastAPI:
    """Return the web application; see _Endpoints for the arguments."""
    app = FastAPI(
        title="Gatehouse test bed",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_only_for_programs(control_url)), Depends(_refuse_unknown_parameters)],
    )
    app.add_exception_handler(RequestValidationError, _not_as_described)
    app.add_exception_handler(UnknownName, _unknown)
    app.add_exception_handler(ValueError, _invalid)
    app.add_exception_handler(TestbedError, _failed)
    its = _Endpoints(bed, control_url)
    app.get("/")(its.description)
    app.post("/reset", status_code=204)(its.reset)
    app.post("/tokens")(its.make_token)
    app.post("/tokens/revoke", status_code=204)(its.revoke_token)
    app.get("/tokens/kinds")(its.token_kinds)
    app.post("/faults", status_code=201)(its.add_fault)
    app.get("/faults")(its.faults)
    app.delete("/faults", status_code=204)(its.remove_faults)
    app.delete("/faults/{name}", status_code=204)(its.remove_fault)
    app.get("/clock")(its.clock)
    app.post("/clock")(its.advance_clock)
    app.post("/clock/skew")(its.skew_clock)
    app.post("/issuer/keys/rotate", status_code=204)(its.rotate_keys)
    app.get("/calls")(its.calls)
    app.get("/spans")(its.spans)
    app.get("/logs")(its.logs)
    app.get("/issuer/requests")(its.issuer_requests)
    return app


def openapi() -> dict[str, Any]:
    """Return the description of the API (OpenAPI 3.1)."""
    return create_control_app(None, "").openapi()
