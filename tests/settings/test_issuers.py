"""The settings of an issuer and of an OAuth2 client: what is refused, and how the secret is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gatehouse.settings import IssuerSettings, OAuthClientSettings

VALID: dict[str, Any] = {
    "issuer": "https://id.test/realms/r",
    "audience": "gatehouse-api",
    "client_id": "gatehouse-api",
    "client_secret": "canary-secret",
}


def test_defaults_are_safe() -> None:
    settings = IssuerSettings(**VALID)

    assert (settings.mode, settings.provider, settings.allow_http) == ("hybrid", "keycloak", False)
    assert settings.algorithms == ("ES256", "RS256")
    assert (settings.revocation_budget_seconds, settings.leeway_seconds) == (30.0, 60.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": ""}, "issuer must be an https URL"),
        ({"audience": ""}, "at least 1 character"),
        ({"audience": []}, "at least 1 item"),
        ({"audience": ["gatehouse-api", ""]}, "at least 1 character"),
        ({"audience": ["gatehouse-api", 1]}, "valid string"),
        ({"audience": {"gatehouse-api": 1}}, "must be a string or a list of strings"),
        ({"algorithms": ()}, "at least 1 item"),
        ({"algorithms": ("ES256", "HS256")}, "should be 'ES256'"),
        ({"algorithms": ("none",)}, "should be 'ES256'"),
        ({"algorithms": ("ES256K",)}, "should be 'ES256'"),
        ({"client_id": None}, "mode hybrid needs client_id and client_secret"),
        ({"client_secret": None, "mode": "introspection"}, "mode introspection needs client_id"),
        ({"client_secret": ""}, "mode hybrid needs client_id and client_secret"),
        ({"revocation_budget_seconds": -1}, "greater than or equal to 0"),
        ({"leeway_seconds": 301}, "less than or equal to 300"),
        ({"leeway_seconds": math.nan}, "finite number"),
        ({"revocation_budget_seconds": math.inf}, "finite number"),
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
def test_invalid_issuer_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        IssuerSettings(**(VALID | changes))

    (error, *_) = caught.value.errors(include_input=False)
    assert message in error["msg"]
    assert "canary" not in error["msg"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "jwt", "client_id": None, "client_secret": None},
        {"issuer": "http://localhost:8080/realms/r"},
        {"issuer": "http://id.test", "allow_http": True},
        {"issuer": "http://id.test", "discovery_url": "https://inside.test/metadata"},
        {"revocation_budget_seconds": 0, "leeway_seconds": 0},
        {"audience": ["gatehouse-api", "gatehouse-legacy"]},
    ],
    ids=str,
)
def test_valid_issuer_is_accepted(changes: dict[str, Any]) -> None:
    assert IssuerSettings(**(VALID | changes))


@pytest.mark.parametrize("url", ["issuer", "discovery_url"])
def test_urls_of_an_oauth_client_must_be_https(url: str) -> None:
    with pytest.raises(ValidationError, match=f"{url} must be an https URL"):
        OAuthClientSettings(**{url: "http://id.test"})


def test_secret_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  canary\n")
    settings = OAuthClientSettings(client_secret_file=file)

    assert settings.client_secret is not None
    assert settings.client_secret.get_secret_value() == "canary"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n\t", "is empty"), (b"canary\xff\xfe", "is not UTF-8 text")],
)
def test_file_without_a_secret_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ValidationError, match=f"client_secret_file: {file} {message}"):
        OAuthClientSettings(client_secret_file=file)


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file or directory"), (".", "Is a directory")]
)
def test_file_that_cannot_be_read_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        OAuthClientSettings(client_secret_file=tmp_path / name)

    assert f"client_secret_file: cannot read {tmp_path / name} ({reason})" in str(caught.value)


def test_secret_and_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="client_secret and client_secret_file are both set"):
        OAuthClientSettings(client_secret="canary", client_secret_file=tmp_path / "secret")
