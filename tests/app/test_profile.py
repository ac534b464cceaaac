"""What the command line reads to find a system: the profile, or the settings of a server beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from gatehouse.app.profile import local_profile
from gatehouse.client.profile import load_profile
from gatehouse.settings import with_password


def test_a_relative_authority_is_looked_for_beside_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.json"
    monkeypatch.setenv("GATEHOUSE_PROFILE", str(path))
    path.write_text(json.dumps({"ca_file": "ca.crt"}))
    assert load_profile().ca_file == tmp_path / "ca.crt"
    path.write_text(json.dumps({"ca_file": "/etc/ca.crt"}))
    assert load_profile().ca_file == Path("/etc/ca.crt")


def test_without_a_profile_the_settings_of_the_server_here_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEHOUSE_PROFILE", raising=False)
    monkeypatch.setenv("GATEHOUSE_SERVER__HOST", "0.0.0.0")
    monkeypatch.setenv("GATEHOUSE_USERS__PORT", "7")
    monkeypatch.setenv("GATEHOUSE_TLS__CA_FILE", "/run/ca.crt")
    found = local_profile()
    assert found.targets["users"] == "127.0.0.1:7"
    assert found.ca_file == Path("/run/ca.crt")
    assert not found.plaintext


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://r@h:5/d?sslmode=require", "postgresql://r:p%2Fw%40@h:5/d?sslmode=require"),
        ("postgresql://r@/d?host=/tmp", "postgresql://r:p%2Fw%40@/d?host=/tmp"),
        ("postgresql://r:own@h/d", "postgresql://r:own@h/d"),
        ("postgresql:///d", "postgresql:///d"),
    ],
)
def test_a_password_that_stands_apart_joins_an_address_that_has_none(url: str, expected: str) -> None:
    assert with_password(SecretStr(url), SecretStr("p/w@")) == expected
    assert with_password(SecretStr(url), None) == url
