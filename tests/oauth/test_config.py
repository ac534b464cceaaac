"""What an issuer's configuration must say, and that it keeps its secret to itself."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gatehouse.oauth import IssuerConfig
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config
from tests.support.oauth_issuers import LoopbackIssuer

GOOD: dict[str, Any] = {
    "issuer": "https://id.test/realms/r",
    "audience": "gatehouse-api",
    "client_id": "gatehouse-api",
    "client_secret": "canary-secret",
}


def test_defaults_are_the_safe_ones() -> None:
    made = IssuerConfig(**GOOD)

    assert (made.mode, made.provider, made.allow_http) == ("hybrid", "keycloak", False)
    assert made.algorithms == ("ES256", "RS256")
    assert (made.revocation_budget_seconds, made.leeway_seconds) == (30.0, 60.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"issuer": ""}, "issuer and audience are required"),
        ({"audience": ""}, "issuer and audience are required"),
        ({"algorithms": ()}, "algorithms must be some of"),
        ({"algorithms": ("HS256",)}, "algorithms must be some of"),
        ({"algorithms": ("ES256", "HS256")}, "algorithms must be some of"),
        ({"algorithms": ("none",)}, "algorithms must be some of"),
        ({"algorithms": ("ES256K",)}, "algorithms must be some of"),
        ({"client_id": None}, "mode hybrid needs client_id and client_secret"),
        ({"client_secret": None, "mode": "introspection"}, "mode introspection needs client_id"),
        ({"client_secret": ""}, "mode hybrid needs client_id and client_secret"),
        ({"revocation_budget_seconds": -1}, "must be finite and not negative"),
        ({"leeway_seconds": -0.1}, "must be finite and not negative"),
        ({"leeway_seconds": math.nan}, "must be finite and not negative"),
        ({"leeway_seconds": math.inf}, "must be finite and not negative"),
        ({"revocation_budget_seconds": math.nan}, "must be finite and not negative"),
        ({"issuer": "http://id.test"}, "issuer must be an https URL"),
        ({"issuer": "id.test"}, "issuer must be an https URL"),
        ({"discovery_url": "http://id.test"}, "discovery_url must be an https URL"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri must be an https URL"),
        ({"jwks_uri": ""}, "jwks_uri must be an https URL"),
        ({"introspection_endpoint": "http://id.test"}, "introspection_endpoint must be an https URL"),
        ({"introspection_endpoint": "https://a:b@id.test"}, "introspection_endpoint must be an https URL"),
    ],
    ids=str,
)
def test_configuration_that_cannot_work_is_refused_by_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        IssuerConfig(**(GOOD | changes))

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "jwt", "client_id": None, "client_secret": None},
        {"issuer": "http://localhost:8080/realms/r"},
        {"issuer": "http://id.test", "allow_http": True},
        {"issuer": "http://id.test", "discovery_url": "https://inside.test/metadata"},
        {"revocation_budget_seconds": 0, "leeway_seconds": 0},
    ],
    ids=str,
)
def test_configuration_that_may_be_so(changes: dict[str, Any]) -> None:
    assert IssuerConfig(**(GOOD | changes))


def test_secret_is_not_shown() -> None:
    assert "canary" not in repr(IssuerConfig(**GOOD))
    assert "canary" not in str(IssuerConfig(**GOOD))


async def test_two_issuers_of_one_name_are_refused(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    with pytest.raises(ValueError, match="two issuers have the same URL"):
        await make_verifier(config(idp), config(idp, audience="other"))


async def test_no_issuer_at_all_is_refused(make_verifier: MakeVerifier) -> None:
    with pytest.raises(ValueError, match="at least one issuer is required"):
        await make_verifier()


async def test_real_clock_is_the_default(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    import time

    import httpx

    idp.clock = time.time
    async with httpx.AsyncClient(trust_env=False) as http:
        verifier = Verifier([config(idp)], http=http)
        await verifier.start()
        assert (await verifier.verify(idp.sign())).scopes == {"read:users"}
        await verifier.aclose()
