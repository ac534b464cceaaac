"""Settings: a misspelt one is a fault, a fault is one line, and no secret is shown anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gatehouse.app.profile import local_profile
from gatehouse.app.services import settings_model
from gatehouse.client.profile import Profile, load_profile
from gatehouse.settings import (
    ConfigurationError,
    environment,
    load_settings,
    mask_settings,
    read_secret,
    setting_values,
    wants_traceback,
)

CANARY = "canary"


def load() -> Any:
    return load_settings(settings_model())


ISSUER: dict[str, Any] = {"issuer": "https://id.test", "audience": "gatehouse-api"}


class Given(Protocol):
    def __call__(self, **values: object) -> None: ...


@pytest.fixture
def given_environment(monkeypatch: pytest.MonkeyPatch) -> Given:
    """Sets the environment, in which nothing else is Gatehouse's."""
    for name in os.environ:
        if name.upper().startswith("GATEHOUSE_"):
            monkeypatch.delenv(name)

    def give(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))

    return give


@pytest.fixture
def secrets_dir(tmp_path: Path, given_environment: Given) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    given_environment(GATEHOUSE_SECRETS_DIR=str(folder))
    return folder


def fault() -> str:
    """The one line that says why the settings cannot be used."""
    with pytest.raises(ConfigurationError) as caught:
        load()
    line = str(caught.value)
    assert "\n" not in line
    assert CANARY not in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


# Where they come from.


def test_defaults_need_no_environment(given_environment: Given) -> None:
    settings = load()

    assert settings == settings_model()()
    assert (settings.server.host, settings.users.port) == ("127.0.0.1", 50051)
    assert settings.issuers == ()
    assert not settings.tls.plaintext


def test_levels_are_joined_by_two_underscores_or_given_as_json(given_environment: Given) -> None:
    given_environment(
        GATEHOUSE_SERVER={"host": "::1", "drain_seconds": 2},
        GATEHOUSE_SERVER__DRAIN_SECONDS="3",
        GATEHOUSE_ISSUERS=[ISSUER, ISSUER | {"mode": "jwt", "algorithms": ["ES512"]}],
        gatehouse_log__level="debug",
    )
    settings = load()

    assert (settings.server.host, settings.server.drain_seconds) == ("::1", 3)
    assert [issuer.mode for issuer in settings.issuers] == ["hybrid", "jwt"]
    assert settings.issuers[1].algorithms == ("ES512",)
    assert settings.log.level == "debug"


def test_secret_may_stand_in_a_file_of_its_name(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_admin__client__client_secret").write_text("canary\n")
    (secrets_dir / "gatehouse_users__database_url").write_text("postgresql://u:canary@h/d\n")
    (secrets_dir / "unrelated").write_text("canary")
    (secrets_dir / "gatehouse_api_secret").write_text("of the realm file")
    settings = load()

    assert settings.admin.client.client_secret is not None
    assert settings.admin.client.client_secret.get_secret_value() == "canary"
    assert settings.users.database_url.get_secret_value() == "postgresql://u:canary@h/d"


def test_environment_goes_before_files(secrets_dir: Path, given_environment: Given) -> None:
    (secrets_dir / "gatehouse_admin__client__client_secret").write_text("of the file")
    (secrets_dir / "gatehouse_admin__client__client_id").write_text("of the file")
    given_environment(GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET="of the environment")
    client = load().admin.client

    assert client.client_secret is not None
    assert client.client_secret.get_secret_value() == "of the environment"
    assert client.client_id == "of the file"


def test_settings_cannot_be_changed(given_environment: Given) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().server.host = "0.0.0.0"


def test_origin_of_each_setting_is_known(secrets_dir: Path, given_environment: Given) -> None:
    (secrets_dir / "gatehouse_admin__client__client_secret").write_text("canary")
    given_environment(GATEHOUSE_USERS__PORT="7")
    found = {name: (value, origin) for name, value, origin in setting_values(load())}

    assert found["GATEHOUSE_USERS__PORT"] == (7, "environment")
    assert found["GATEHOUSE_ADMIN__PORT"] == (50052, "default")
    assert found["GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET"] == ("**********", str(secrets_dir))
    assert CANARY not in json.dumps(found)


# What is wrong with them.


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GATEHOUSE_SEVER__HOST", "1", "unknown setting"),
        ("GATEHOUSE_SEVER__HOST", "1", "did you mean GATEHOUSE_SERVER__HOST?"),
        ("GATEHOUSE_SERVER__USER_PORT", "1", "unknown setting"),
        ("GATEHOUSE_USERS__PORT__X", "1", "unknown setting"),
        ("GATEHOUSE_SERVER__", "1", "unknown setting"),
        ("GATEHOUSE___", "1", "unknown setting"),
        ("GATEHOUSE_ISSUERS__0__ISSUER", "https://id.test", "unknown setting"),
        ("GATEHOUSE_USERS__DATABASE_URL_FILE", "/x", "unknown setting"),
        ("GATEHOUSE_ISSUER", "[]", "did you mean GATEHOUSE_ISSUERS?"),
        ("GATEHOUSE_TELEMETRI", "{}", "did you mean GATEHOUSE_TELEMETRY?"),
        ("gatehouse_sever__users_port", "1", "unknown setting"),
        ("GATEHOUSE_USERS__PORT", "canary", "valid integer"),
        ("GATEHOUSE_USERS__PORT", "", "valid integer"),
        ("GATEHOUSE_USERS__PORT", "65536", "less than or equal to 65535"),
        ("GATEHOUSE_USERS__PORT", "-1", "greater than or equal to 0"),
        ("GATEHOUSE_SERVER__DRAIN_SECONDS", "inf", "finite number"),
        ("GATEHOUSE_SERVER__DRAIN_SECONDS", "nan", "finite number"),
        ("GATEHOUSE_SERVER__MAX_DEADLINE_SECONDS", "0", "greater than 0"),
        ("GATEHOUSE_SERVER__REFLECTION", "canary", "valid boolean"),
        ("GATEHOUSE_TELEMETRY__SAMPLE_RATIO", "1.5", "less than or equal to 1"),
        ("GATEHOUSE_LOG__LEVEL", "canary", "'debug', 'info', 'warning' or 'error'"),
        ("GATEHOUSE_USERS__DATABASE_URL", "canary", "must be a url such as postgresql://"),
        ("GATEHOUSE_ADMIN__DATABASE_URL", "https://canary", "must be a url such as postgresql://"),
        ("GATEHOUSE_ADMIN__DATABASE_URL", "postgresql://canary:port@h:x/", "must be a url such as"),
        ("GATEHOUSE_SERVER", "canary{", "must be JSON"),
        ("GATEHOUSE_SERVER", '"canary"', "valid dictionary"),
        ("GATEHOUSE_SERVER", '{"canary', "must be JSON"),
        ("GATEHOUSE_ISSUERS", "canary", "must be JSON"),
        ("GATEHOUSE_ISSUERS", '{"issuer": "canary"}', "valid tuple"),
    ],
)
def test_fault_is_one_line_that_names_the_setting(
    name: str, value: str, says: str, given_environment: Given
) -> None:
    given_environment(**{name: value})
    line = fault()

    assert line.startswith(f"{name}: ")
    assert says in line


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"client_secret": ["canary"]}, "CLIENT_SECRET", "valid string"),
        ({"audience": None}, "AUDIENCE", "valid string"),
        ({"mode": "canary"}, "MODE", "'jwt', 'introspection' or 'hybrid'"),
        ({"provider": "canary"}, "PROVIDER", "'keycloak', 'auth0' or 'okta'"),
        ({"leeway_seconds": 301}, "LEEWAY_SECONDS", "less than or equal to 300"),
        ({"leeway_seconds": -1}, "LEEWAY_SECONDS", "greater than or equal to 0"),
        ({"revocation_budget_seconds": 301}, "REVOCATION_BUDGET_SECONDS", "less than or equal to 300"),
        ({"client_scret": "canary"}, "CLIENT_SCRET", "unknown setting"),
    ],
    ids=str,
)
def test_fault_of_an_issuer_says_which_and_what(
    changes: dict[str, Any], name: str, says: str, given_environment: Given
) -> None:
    given_environment(GATEHOUSE_ISSUERS=[ISSUER, ISSUER | {"client_secret": "canary"} | changes])
    line = fault()

    assert line.startswith(f"GATEHOUSE_ISSUERS__1__{name}: ")
    assert says in line


def test_more_than_one_fault_is_counted(given_environment: Given) -> None:
    given_environment(GATEHOUSE_USERS__PORT="canary", GATEHOUSE_ADMIN__PORT="canary")

    assert fault().endswith("(and 1 more)")


@pytest.mark.parametrize(
    "name",
    ["GATEHOUSE_API_SECRET", "GATEHOUSE_SERVICE_HOST", "GATEHOUSE_PORT_50051_TCP_ADDR", "GATEHOUSE_PORT"]
    + ["GATEHOUSE_PROFILE", "GATEHOUSE_TRACEBACK", "GATEHOUSER", "OTHER_SERVER__PORT"],
)
def test_name_that_is_no_setting_of_ours_does_no_harm(name: str, given_environment: Given) -> None:
    given_environment(**{name: "canary"})

    assert load() == settings_model()()


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    field=st.sampled_from(["SERVER", "ISSUERS", "CLIENT", "DATABASE__USERS_URL", "TELEMETRY__METRICS_PORT"]),
    value=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(
        lambda text: f"{text}canary"
    ),
)
def test_no_value_is_ever_repeated(field: str, value: str, given_environment: Given) -> None:
    given_environment(**{f"GATEHOUSE_{field}": value})
    try:
        assert fault().startswith("GATEHOUSE_")
    finally:
        del os.environ[f"GATEHOUSE_{field}"]


# The folder of secrets.


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gatehouse_databse__users_url", "did you mean GATEHOUSE_DATABASE?"),
        ("gatehouse_database__user_url", "GATEHOUSE_DATABASE__USER_URL: unknown setting"),
        ("gatehouse_issuer", "did you mean GATEHOUSE_ISSUERS?"),
        ("gatehouse_issuers", "GATEHOUSE_ISSUERS: must be JSON"),
        ("gatehouse_server__users_port", "GATEHOUSE_USERS__PORT: input should be a valid integer"),
    ],
)
def test_fault_of_a_file_of_secrets_names_the_setting(name: str, says: str, secrets_dir: Path) -> None:
    (secrets_dir / name).write_text("canary")

    assert says in fault()


def test_file_of_secrets_that_is_no_text_is_a_fault(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_admin__client__client_secret").write_bytes(b"canary\xff")

    assert fault() == f"GATEHOUSE_SECRETS_DIR: {secrets_dir} holds a file that is no text"


def test_folder_of_secrets_that_is_not_there_is_a_fault(tmp_path: Path, given_environment: Given) -> None:
    given_environment(GATEHOUSE_SECRETS_DIR=str(tmp_path / "missing"))

    assert fault() == f"GATEHOUSE_SECRETS_DIR: {tmp_path}/missing cannot be read (No such file or directory)"


def test_folder_of_secrets_that_is_a_file_is_a_fault(tmp_path: Path, given_environment: Given) -> None:
    (tmp_path / "file").write_text("canary")
    given_environment(GATEHOUSE_SECRETS_DIR=str(tmp_path / "file"))

    assert fault() == f"GATEHOUSE_SECRETS_DIR: {tmp_path}/file cannot be read (Not a directory)"


def test_folder_of_secrets_that_is_too_large_is_a_fault(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_admin__client__client_secret").write_text("canary" * 4_000_000)

    assert fault().startswith("GATEHOUSE_SECRETS_DIR: ")


# A secret apart, in a file that a setting names.


def test_secret_is_the_setting_or_the_trimmed_content_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  canary\n", encoding="utf-8")

    assert read_secret(SecretStr("given"), None, "NAME") == "given"
    assert read_secret(None, file, "NAME") == "canary"
    assert read_secret(None, None, "NAME") is None


def test_secret_that_is_given_twice_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^NAME: is given, and NAME_FILE too; keep one of them$"):
        read_secret(SecretStr("canary"), tmp_path / "secret", "NAME")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b" \n\t", "is empty"), (b"canary\xff\xfe", "is no text in UTF-8")],
)
def test_file_without_a_secret_is_a_fault(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_secret(None, file, "NAME")

    assert str(caught.value).startswith(f"NAME_FILE: {file} {says}")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"), [("missing", "No such file or directory"), (".", "Is a directory")]
)
def test_file_of_a_secret_that_cannot_be_read_is_a_fault(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_secret(None, tmp_path / name, "NAME")

    assert str(caught.value) == f"NAME_FILE: {tmp_path / name} cannot be read ({says})"


# What is shown of them.


def full_of_secrets(given_environment: Given) -> Any:
    urls = {
        f"{role}_url": f"postgresql://u:canary@h/{role}?sslpassword=canary" for role in ("users", "admin")
    }
    given_environment(
        GATEHOUSE_ISSUERS=[
            ISSUER
            | {"client_secret": "canary", "discovery_url": "https://u:canary@id.test/x?password=canary"}
        ],
        GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET="canary",
        GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET="canary",
        GATEHOUSE_DATABASE=urls | {"migrate_password": "canary", "users_password": "canary"},
        GATEHOUSE_TELEMETRY__OTLP_ENDPOINT="https://user:canary@collector.test:4317",
    )
    return load()


def test_masked_settings_show_no_secret(given_environment: Given) -> None:
    settings = full_of_secrets(given_environment)
    shown = mask_settings(settings)

    assert CANARY not in json.dumps(shown)
    assert shown["database"]["users_url"] == "postgresql://u:***@h/users?sslpassword=***"
    assert shown["telemetry"]["otlp_endpoint"] == "https://user:***@collector.test:4317"
    assert shown["issuers"][0]["discovery_url"] == "https://u:***@id.test/x?password=***"
    assert shown["issuers"][0]["issuer"] == "https://id.test"
    assert settings.telemetry.otlp_endpoint == "https://user:canary@collector.test:4317"


def test_address_that_is_none_is_masked_whole(given_environment: Given) -> None:
    given_environment(GATEHOUSE_TELEMETRY__OTLP_ENDPOINT="https://[canary@x")

    assert mask_settings(load())["telemetry"]["otlp_endpoint"] == "***"


def test_repr_of_settings_shows_no_secret_of_its_own(given_environment: Given) -> None:
    given_environment(
        GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET="canary", GATEHOUSE_USERS__DATABASE_PASSWORD="canary"
    )

    assert CANARY not in repr(load()) + str(load())


def test_password_that_stands_apart_is_put_into_its_address(given_environment: Given) -> None:
    given_environment(
        GATEHOUSE_USERS__DATABASE_URL="postgresql://u@h:1/d",
        GATEHOUSE_USERS__DATABASE_PASSWORD="a/b@c",
        GATEHOUSE_ADMIN__DATABASE_URL="postgresql://u:own@h/d",
        GATEHOUSE_ADMIN__DATABASE_PASSWORD="other",
        GATEHOUSE_PUBLIC__DATABASE_URL="postgresql://h/d",
        GATEHOUSE_PUBLIC__DATABASE_PASSWORD="other",
    )
    database = load().database

    assert database.address("users") == "postgresql://u:a%2Fb%40c@h:1/d"
    assert database.address("admin") == "postgresql://u:own@h/d"
    assert database.address("public") == "postgresql://h/d"
    assert database.address("migrate") == "postgresql://postgres@127.0.0.1:5432/gatehouse"


# The profile of the command line.


def test_profile_has_defaults(given_environment: Given) -> None:
    assert load_profile() == Profile()


def test_profile_is_read_from_its_file(tmp_path: Path, given_environment: Given) -> None:
    file = tmp_path / "profile.json"
    file.write_text(
        json.dumps({"ca_file": "ca.pem", "targets": {"users": "h:1"}, "passwords": {"alice": "canary"}})
    )
    given_environment(GATEHOUSE_PROFILE=str(file))
    profile = load_profile()

    assert profile.targets["users"] == "h:1"
    assert profile.ca_file == tmp_path / "ca.pem"
    assert profile.passwords["alice"].get_secret_value() == "canary"
    assert CANARY not in repr(profile) + json.dumps(mask_settings(profile))
    assert local_profile() == profile


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("canary", "invalid json"),
        ('{"canary_entry": "canary"}', "unknown key"),
        ('{"plaintext": "canary"}', "plaintext: input should be a valid boolean"),
        ("[]", "input should be an object"),
    ],
)
def test_fault_of_a_profile_is_one_line(
    content: str, says: str, tmp_path: Path, given_environment: Given
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    given_environment(GATEHOUSE_PROFILE=str(file))
    with pytest.raises(ConfigurationError) as caught:
        load_profile()

    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profile_that_is_not_there_is_a_fault(tmp_path: Path, given_environment: Given) -> None:
    given_environment(GATEHOUSE_PROFILE=str(tmp_path / "missing.json"))

    with pytest.raises(ConfigurationError, match=r"missing\.json: cannot be read \(No such file"):
        load_profile()


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]")]
    + [("[::1]", "[::1]"), ("10.0.0.1", "10.0.0.1")],
)
def test_probe_beside_a_server_needs_no_profile(host: str, asked: str, given_environment: Given) -> None:
    given_environment(GATEHOUSE_SERVER__HOST=host, GATEHOUSE_USERS__PORT="7", GATEHOUSE_TLS__PLAINTEXT="true")
    profile = local_profile()

    assert profile.targets["users"] == f"{asked}:7"
    assert profile.plaintext


def test_traceback_is_wanted_when_it_is_said(given_environment: Given) -> None:
    assert not wants_traceback()
    given_environment(GATEHOUSE_TRACEBACK="1")
    assert wants_traceback()
    assert environment()["GATEHOUSE_TRACEBACK"] == "1"
