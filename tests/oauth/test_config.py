"""Validation of the configuration of issuers."""

from __future__ import annotations

import math
import time
from typing import Any

import httpx
import pytest

from gatehouse.oauth import IssuerConfig
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config
from tests.support.oauth_issuers import LoopbackIssuer

VALID: dict[str, Any] = {
    "issuer": "https://id.test/realms/r",
    "audience": "gatehouse-api",
    "client_id": "gatehouse-api",
    "client_secret": "canary-secret",
}


def test_defaults_are_safe() -> None:
    default = IssuerConfig(**VALID)

    assert (default.mode, default.provider, default.allow_http) == ("hybrid", "keycloak", False)
    assert default.algorithms == ("ES256", "RS256")
    assert (default.revocation_budget_seconds, default.leeway_seconds) == (30.0, 60.0)


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
def test_invalid_configuration_is_refused_with_the_name_of_the_attribute(
    changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        IssuerConfig(**(VALID | changes))

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "jwt", "client_id": None, "client_secret": None},
        {"issuer": "http://localhost:8080/realms/r"},
        {"issuer": "http://id.test", "allow_http": True},
        {"issuer": "http://id.test", "discovery_url": "https://internal.test/metadata"},
        {"revocation_budget_seconds": 0, "leeway_seconds": 0},
    ],
    ids=str,
)
def test_unusual_but_valid_configuration_is_accepted(changes: dict[str, Any]) -> None:
    assert IssuerConfig(**(VALID | changes))


def test_repr_does_not_contain_the_client_secret() -> None:
    assert "canary" not in repr(IssuerConfig(**VALID))
    assert "canary" not in str(IssuerConfig(**VALID))


async def test_two_issuers_with_the_same_url_are_refused(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    with pytest.raises(ValueError, match="two issuers have the same URL"):
        await make_verifier(config(idp), config(idp, audience="other"))


async def test_empty_list_of_issuers_is_refused(make_verifier: MakeVerifier) -> None:
    with pytest.raises(ValueError, match="at least one issuer is required"):
        await make_verifier()


async def test_system_clock_is_the_default(http: httpx.AsyncClient, idp: LoopbackIssuer) -> None:
    idp.clock = time.time
    verifier = Verifier([config(idp)], http=http)
    await verifier.start()
    assert (await verifier.verify(idp.sign())).scopes == {"read:users"}
    await verifier.aclose()
