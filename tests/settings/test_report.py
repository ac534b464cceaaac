"""What is shown of settings: values without secrets, origins, and meanings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gatehouse.app.services import settings_model
from gatehouse.settings import describe_settings, load_settings, mask_settings, setting_values
from tests.support.environment import SetEnvironment

CANARY = "canary"


def load_secrets(set_environment: SetEnvironment) -> Any:
    """Settings in which every secret contains the canary."""
    set_environment(
        GATEHOUSE_ISSUERS=[
            {
                "issuer": "https://id.test",
                "audience": "gatehouse-api",
                "client_id": "gatehouse-api",
                "client_secret": "canary",
                "discovery_url": "https://id.test/x?password=canary",
            }
        ],
        # <part admin>
        GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET="canary",
        GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET="canary",
        GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL="https://user:canary@id.test/admin",
        # </part admin>
        GATEHOUSE_USERS__DATABASE_URL="postgresql://u:canary@h/users?sslpassword=canary",
        GATEHOUSE_USERS__DATABASE_PASSWORD="canary",
        GATEHOUSE_DATABASE__MIGRATE_PASSWORD="canary",
    )
    return load_settings(settings_model())


def test_masked_settings_contain_no_secret(set_environment: SetEnvironment) -> None:
    settings = load_secrets(set_environment)
    shown = mask_settings(settings)

    assert CANARY not in json.dumps(shown)
    assert shown["users"]["database_url"] == "postgresql://u:***@h/users?sslpassword=***"
    # <part admin>
    assert shown["admin"]["role_sync"]["admin_url"] == "https://user:***@id.test/admin"
    # </part admin>
    assert shown["issuers"][0]["discovery_url"] == "https://id.test/x?password=***"
    assert shown["issuers"][0]["client_secret"] == "**********"
    assert shown["issuers"][0]["issuer"] == "https://id.test"
    # <part admin>
    assert settings.admin.role_sync.admin_url == "https://user:canary@id.test/admin"


def test_invalid_url_is_masked_as_a_whole(set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL="https://[canary@x")

    assert mask_settings(load_settings(settings_model()))["admin"]["role_sync"]["admin_url"] == "***"
    # </part admin>


def test_repr_of_settings_contains_no_secret(set_environment: SetEnvironment) -> None:
    set_environment(
        GATEHOUSE_USERS__DATABASE_URL="postgresql://u:canary@h/d", GATEHOUSE_USERS__DATABASE_PASSWORD="canary"
    )
    settings = load_settings(settings_model())

    assert CANARY not in repr(settings) + str(settings)


def test_each_value_has_its_origin(tmp_path: Path, set_environment: SetEnvironment) -> None:
    (tmp_path / "gatehouse_users__database_password").write_text("canary")
    secret = tmp_path / "secret"
    secret.write_text("canary")
    set_environment(
        GATEHOUSE_SECRETS_DIR=str(tmp_path),
        GATEHOUSE_USERS__PORT="7",
        # <part admin>
        GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET_FILE=str(secret),
        # </part admin>
    )
    rows = setting_values(load_settings(settings_model()))
    found = {row.name: (row.value, row.origin) for row in rows}

    assert found["GATEHOUSE_USERS__PORT"] == (7, "environment")
    assert found["GATEHOUSE_TELEMETRY__METRICS_HOST"] == ("127.0.0.1", "default")
    assert found["GATEHOUSE_USERS__DATABASE_PASSWORD"] == ("**********", str(tmp_path))
    # <part admin>
    assert found["GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET"] == ("**********", str(secret))
    # </part admin>
    assert CANARY not in json.dumps(found)


def test_description_has_the_default_and_the_meaning_of_each_setting() -> None:
    rows = {row.name: row for row in describe_settings(settings_model())}

    assert rows["GATEHOUSE_SERVER__HOST"][1:] == (
        '"127.0.0.1"',
        "Address to listen on, without the port; `0.0.0.0` for all IPv4 addresses.",
    )
    assert rows["GATEHOUSE_ISSUERS: issuer"][1:] == ("", "Issuer URL: the exact value of the `iss` claim.")
    assert rows["GATEHOUSE_USERS__PORT"].default == "50051"
    # <part admin>
    assert rows["GATEHOUSE_ADMIN__CLIENT__SCOPE"].default == '"read:users"'
    # </part admin>
    assert all(row.meaning.endswith(".") for row in rows.values())


def test_description_has_the_values_that_a_setting_can_have() -> None:
    meanings = {row.name: row.meaning for row in describe_settings(settings_model())}
    assert meanings["GATEHOUSE_LOG__LEVEL"].endswith("One of `debug`, `info`, `warning`, `error`.")
    assert meanings["GATEHOUSE_ISSUERS: timeout_seconds"].endswith("More than 0, at most 5.")
    assert meanings["GATEHOUSE_USERS__PORT"].endswith("At least 0, at most 65535.")
    assert not any("\n" in meaning for meaning in meanings.values())
