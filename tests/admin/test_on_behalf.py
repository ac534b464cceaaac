"""AdminService calls UserService on behalf of its callers, with tokens from an exchange."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.client import ClientSecretBasic, ExchangedTokens, OAuthClient
from gatehouse.oauth import InvalidToken
from gatehouse.runtime.on_behalf import CallerTokens
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import LoopbackIssuer
from tests.support.rpc import error_info, principal
from tests.support.services import ALL_SCOPES, Services, open_services

STATS = pb.GetStatsRequest()


@dataclass
class OnBehalf:
    """Both services, and the issuer that exchanges."""

    services: Services
    idp: LoopbackIssuer

    async def outcome(self) -> tuple[grpc.StatusCode, str]:
        """Call GetStats as alice, and return code and reason."""
        call = self.services.admin.GetStats(STATS, timeout=60)
        code = await call.code()
        return code, "" if code is grpc.StatusCode.OK else error_info(await call.trailing_metadata()).reason

    def tokens_asked(self) -> list[str]:
        """Return the tokens that the services verified since the last call."""
        found = [token for token, _ in self.services.verifier.asked]
        self.services.verifier.asked.clear()
        return found

    def alice(self, *scopes: str, **more: Any) -> None:
        """Set the principal of alice at AdminService."""
        more = {"issuer": self.idp.issuer, "roles": ("admin",)} | more
        self.services.verifier.answers["alice"] = principal(*scopes, **more)


@pytest.fixture
async def on_behalf(
    request: pytest.FixtureRequest,
    database_urls: dict[str, str],
    http: httpx.AsyncClient,
    idp: LoopbackIssuer,
) -> AsyncIterator[OnBehalf]:
    scope, prefix = getattr(request, "param", ("read:users", ""))
    client = OAuthClient(http, "admin-service", ClientSecretBasic("secret"), issuer=idp.issuer)
    exchanged = ExchangedTokens(client, scope, sensitive_scopes=["admin"])
    tokens = CallerTokens(exchanged, idp.issuer, prefix)
    numbers = itertools.count(1)

    def exchange(request: Request) -> Reply:
        assert (request.form["subject_token"], request.form["scope"]) == ("alice", scope)
        body = {"access_token": f"exchanged-{next(numbers)}", "token_type": "Bearer", "expires_in": 300}
        return Reply(body)

    idp.answer("token", exchange)
    async with open_services(database_urls, admin_tokens=tokens) as services:
        found = OnBehalf(services, idp)
        found.alice(*ALL_SCOPES)
        for number in (1, 2):
            services.verifier.answers[f"exchanged-{number}"] = principal("read:users")
        yield found


async def test_user_service_sees_the_caller_and_the_token_is_kept(on_behalf: OnBehalf) -> None:
    for _ in range(2):
        assert await on_behalf.outcome() == (grpc.StatusCode.OK, "")
        assert on_behalf.tokens_asked() == ["alice", "exchanged-1"]
    user_id = (await on_behalf.services.create_user()).user_id
    on_behalf.tokens_asked()
    await on_behalf.services.admin.ManageRoles(pb.ManageRolesRequest(user_id=user_id, grant_roles=["user"]))
    assert on_behalf.tokens_asked() == ["alice", "exchanged-1"]


@pytest.mark.parametrize(
    ("scopes", "more", "reason"),
    [
        (("admin",), {}, "CALLER_LACKS_SCOPE"),
        (("read:users", "admin"), {"issuer": "https://other.test"}, "CALLER_OF_OTHER_ISSUER"),
    ],
)
async def test_caller_for_whom_nothing_can_be_requested_is_denied(
    on_behalf: OnBehalf, scopes: tuple[str, ...], more: dict[str, str], reason: str
) -> None:
    on_behalf.alice(*scopes, **more)
    assert await on_behalf.outcome() == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert [request for request in on_behalf.idp.requests if request.path.endswith("token")] == []
    assert on_behalf.tokens_asked() == ["alice"]


@pytest.mark.parametrize(
    "on_behalf", [("api/read:users api/admin", "api/")], indirect=True, ids=["with a prefix"]
)
async def test_all_scopes_of_the_caller_can_be_requested(on_behalf: OnBehalf) -> None:
    on_behalf.alice("read:users", "admin")
    assert await on_behalf.outcome() == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    ("reply", "code", "reason"),
    [
        (Reply({"error": "invalid_request"}, 400), "UNAUTHENTICATED", "TOKEN_EXCHANGE_REFUSED"),
        (Reply({"error": "access_denied"}, 403), "PERMISSION_DENIED", "TOKEN_EXCHANGE_DENIED"),
        (Reply({"error": "invalid_client"}, 401), "UNAVAILABLE", "USER_SERVICE_UNAVAILABLE"),
        (Reply({"error": "unsupported_grant_type"}, 400), "UNAVAILABLE", "USER_SERVICE_UNAVAILABLE"),
        (
            Reply({"access_token": "exchanged-1", "token_type": "Bearer", "scope": "read:users admin"}),
            "UNAVAILABLE",
            "USER_SERVICE_UNAVAILABLE",
        ),
        (Reply(status=503), "UNAVAILABLE", "USER_SERVICE_UNAVAILABLE"),
    ],
    ids=str,
)
async def test_failed_exchange_gives_the_caller_a_clear_status(
    on_behalf: OnBehalf, reply: Reply, code: str, reason: str
) -> None:
    on_behalf.idp.answer("token", reply)
    assert await on_behalf.outcome() == (grpc.StatusCode[code], reason)
    assert set(on_behalf.tokens_asked()) == {"alice"}  # no token was sent to UserService


async def test_exchanged_token_that_user_service_rejects_is_replaced(on_behalf: OnBehalf) -> None:
    on_behalf.services.verifier.answers["exchanged-1"] = InvalidToken("token_inactive")
    assert await on_behalf.outcome() == (grpc.StatusCode.OK, "")
    assert on_behalf.tokens_asked() == ["alice", "exchanged-1", "exchanged-2"]


async def test_denial_of_user_service_is_a_denial_for_the_caller(on_behalf: OnBehalf) -> None:
    on_behalf.services.verifier.answers["exchanged-1"] = principal()
    assert await on_behalf.outcome() == (grpc.StatusCode.PERMISSION_DENIED, "USER_SERVICE_DENIED")
