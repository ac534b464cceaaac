"""Loading settings: where they come from, names that do not exist, and errors of one line without values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import pq

from gatehouse.app.services import settings_model
from gatehouse.settings import (
    ConfigurationError,
    LogSettings,
    Settings,
    database_parameters,
    environment,
    load_settings,
    wants_traceback,
    with_login,
)
from gatehouse.settings._libpq import PARAMETERS
from tests.support.environment import SetEnvironment

CANARY = "canary"
ISSUER: dict[str, Any] = {"issuer": "https://id.test", "audience": "gatehouse-api", "mode": "jwt"}


def load() -> Any:
    return load_settings(settings_model())


@pytest.fixture
def secrets_dir(tmp_path: Path, set_environment: SetEnvironment) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    set_environment(GATEHOUSE_SECRETS_DIR=str(directory))
    return directory


def load_error() -> str:
    """The one line that says why the settings cannot be loaded."""
    with pytest.raises(ConfigurationError) as caught:
        load()
    line = str(caught.value)
    assert "\n" not in line
    assert CANARY not in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


# Sources.


def test_defaults_need_no_environment(set_environment: SetEnvironment) -> None:
    settings = load()

    assert settings == settings_model()()
    assert (settings.server.host, settings.users.port) == ("127.0.0.1", 50051)
    assert settings.issuers == ()
    assert not settings.tls.plaintext


def test_levels_are_joined_by_two_underscores_or_given_as_json(set_environment: SetEnvironment) -> None:
    other = {"issuer": "https://other.test", "algorithms": ["ES512"]}
    set_environment(
        GATEHOUSE_SERVER={"host": "::1", "drain_seconds": 2},
        GATEHOUSE_SERVER__DRAIN_SECONDS="3",
        GATEHOUSE_ISSUERS=[ISSUER, ISSUER | other],
        gatehouse_log__level="debug",
    )
    settings = load()

    assert (settings.server.host, settings.server.drain_seconds) == ("::1", 3)
    assert [issuer.issuer for issuer in settings.issuers] == ["https://id.test", "https://other.test"]
    assert settings.issuers[1].algorithms == ("ES512",)
    assert settings.log.level == "debug"


def test_secret_can_be_a_file_in_the_secrets_directory(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_users__database_password").write_text("canary\n")
    (secrets_dir / "gatehouse_users__database_url").write_text("postgresql://u:canary@h/d\n")
    (secrets_dir / "unrelated").write_text("canary")
    (secrets_dir / "gatehouse_api_secret").write_text("a variable of the realm file")
    settings = load()

    assert settings.users.database_password.get_secret_value() == "canary"
    assert settings.users.database_url.get_secret_value() == "postgresql://u:canary@h/d"


def test_environment_takes_precedence_over_the_secrets_directory(
    secrets_dir: Path, set_environment: SetEnvironment
) -> None:
    (secrets_dir / "gatehouse_users__database_password").write_text("from the file")
    (secrets_dir / "gatehouse_users__database_url").write_text("postgresql://file/d")
    set_environment(GATEHOUSE_USERS__DATABASE_PASSWORD="from the environment")
    users = load().users

    assert users.database_password.get_secret_value() == "from the environment"
    assert users.database_url.get_secret_value() == "postgresql://file/d"


def test_settings_are_immutable(set_environment: SetEnvironment) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().server.host = "0.0.0.0"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://r@h:5/d?sslmode=require", ("r", "p/w@")),
        ("postgresql://r@/d?host=/tmp", ("r", "p/w@")),
        ("postgresql:///d?user=r", ("r", "p/w@")),
        ("postgresql://r:own@h/d", ("r", "own")),
        ("postgresql://r@h/d?password=own", ("r", "own")),
        ("postgresql:///d", (None, None)),
    ],
)
def test_password_is_added_to_a_database_url_without_one(url: str, expected: tuple[str, str]) -> None:
    parameters = database_parameters(with_login(url, password="p/w@"))
    assert (parameters.get("user"), parameters.get("password")) == expected
    assert with_login(url) == url


def test_role_is_added_to_a_database_url_without_a_user() -> None:
    assert database_parameters(with_login("postgresql:///d", "r", "p/w@")) == {
        "user": "r",
        "password": "p/w@",
        "dbname": "d",
    }
    assert with_login("postgresql://own@/d", "r") == "postgresql://own@/d"


def test_traceback_is_printed_on_request(set_environment: SetEnvironment) -> None:
    assert not wants_traceback()
    set_environment(GATEHOUSE_TRACEBACK="1")
    assert wants_traceback()
    assert environment()["GATEHOUSE_TRACEBACK"] == "1"


# Names.

RENAMED = [
    ("SERVER__USERS_PORT", "USERS__PORT"),
    # <part admin>
    ("SERVER__ADMIN_PORT", "ADMIN__PORT"),
    ("DATABASE__ADMIN_URL", "ADMIN__DATABASE_URL"),
    # </part admin>
    ("DATABASE__USERS_PASSWORD", "USERS__DATABASE_PASSWORD"),
    # <part admin>
    ("CLIENT__CLIENT_ID", "ADMIN__CLIENT__CLIENT_ID"),
    ("CLIENT__CLIENT_SECRET_FILE", "ADMIN__CLIENT__CLIENT_SECRET_FILE"),
    ("CLIENT__USERS_TARGET", "ADMIN__USERS_TARGET"),
    ("ROLE_SYNC__ADMIN_URL", "ADMIN__ROLE_SYNC__ADMIN_URL"),
    ("ROLE_SYNC__POLL_SECONDS", "ADMIN__ROLE_SYNC__POLL_SECONDS"),
    ("CLIENT", "ADMIN__CLIENT"),
    ("ROLE_SYNC", "ADMIN__ROLE_SYNC"),
    # </part admin>
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_old_name_is_refused_with_the_new_name(old: str, new: str, set_environment: SetEnvironment) -> None:
    set_environment(**{f"GATEHOUSE_{old}": "canary"})

    assert load_error() == f"GATEHOUSE_{old}: was renamed; use GATEHOUSE_{new}"


class LaterLog(LogSettings):
    renamed: ClassVar[Mapping[str, str]] = {"log__style": "log__format", "logging": "log"}


class LaterSettings(Settings):
    log: LaterLog = LaterLog()


@pytest.mark.parametrize(
    ("old", "new"), [("LOG__STYLE", "LOG__FORMAT"), ("LOGGING__LEVEL", "LOG__LEVEL"), ("LOGGING", "LOG")]
)
def test_every_section_can_rename_settings(old: str, new: str, set_environment: SetEnvironment) -> None:
    set_environment(**{f"GATEHOUSE_{old}": "canary"})

    with pytest.raises(ConfigurationError, match=f"^GATEHOUSE_{old}: was renamed; use GATEHOUSE_{new}$"):
        load_settings(LaterSettings)


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_file_with_an_old_name_is_refused_with_the_new_name(old: str, new: str, secrets_dir: Path) -> None:
    file = f"gatehouse_{old.lower()}"
    (secrets_dir / file).write_text("canary")

    assert load_error() == f"{file}: was renamed; use GATEHOUSE_{new}"


@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED if pair[0].startswith(("S", "D"))])
def test_old_name_in_a_json_section_is_refused_with_the_new_name(
    old: str, new: str, set_environment: SetEnvironment
) -> None:
    section, _, name = old.partition("__")
    set_environment(**{f"GATEHOUSE_{section}": {name.lower(): "canary"}})

    assert load_error() == f"GATEHOUSE_{old}: was renamed; use GATEHOUSE_{new}"


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [
        ("GATEHOUSE_SEVER__HOST", "1", "GATEHOUSE_SERVER__HOST"),
        ("GATEHOUSE_USERS__PRT", "1", "GATEHOUSE_USERS__PORT"),
        ("GATEHOUSE_SERVER_HOST", "1", "GATEHOUSE_SERVER__HOST"),
        ("GATEHOUSE_ISSUER", "[]", "GATEHOUSE_ISSUERS"),
        ("GATEHOUSE_TELEMETRI", "{}", "GATEHOUSE_TELEMETRY"),
        ("gatehouse_sever__host", "1", "GATEHOUSE_SERVER__HOST"),
        ("GATEHOUSE_TLS__CERT_FILE", "1", "GATEHOUSE_TLS__CERTIFICATE_FILE"),
        ("GATEHOUSE_TLS__CRT_FILE", "1", "GATEHOUSE_TLS__CERTIFICATE_FILE"),
        ("GATEHOUSE_TLS__KEY_FILE", "1", "GATEHOUSE_TLS__PRIVATE_KEY_FILE"),
        ("GATEHOUSE_TLS__KEY", "1", "GATEHOUSE_TLS__PRIVATE_KEY_FILE"),
        ("GATEHOUSE_TLS__CERT", "1", "GATEHOUSE_TLS__CERTIFICATE_FILE"),
        ("GATEHOUSE_TLS__CA", "1", "GATEHOUSE_TLS__CA_FILE"),
        ("GATEHOUSE_TLS_CERT_FILE", "1", "GATEHOUSE_TLS__CERTIFICATE_FILE"),
        ("GATEHOUSE_USERS__DB_URL", "1", "GATEHOUSE_USERS__DATABASE_URL"),
        ("GATEHOUSE_USERS__DB_PASSWORD", "1", "GATEHOUSE_USERS__DATABASE_PASSWORD"),
        # <part admin>
        ("GATEHOUSE_ADMIN__CLIENT__ID", "1", "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID"),
        # </part admin>
        ("GATEHOUSE_LOG__LVL", "1", "GATEHOUSE_LOG__LEVEL"),
        ("GATEHOUSE_TELEMETRY__OTLP", "1", "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT"),
        ("GATEHOUSE_TELEMETRY__ENDPOINT", "1", "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT"),
        # A misspelled section.
        ("GATEHOUSE_SERVRE", "{}", "GATEHOUSE_SERVER"),
        ("GATEHOUSE_SEVER_HOST", "1", "GATEHOUSE_SERVER__HOST"),
        ("GATEHOUSE_DB__POOL_SIZE", "1", "GATEHOUSE_DATABASE__POOL_SIZE"),
        ("GATEHOUSE_LOGGING__LEVEL", "1", "GATEHOUSE_LOG__LEVEL"),
        ("GATEHOUSE_TELMETRY__SAMPL_RATIO", "1", "GATEHOUSE_TELEMETRY__SAMPLE_RATIO"),
        # A key of another section.
        ("GATEHOUSE_SERVER__POOL_SIZE", "1", "GATEHOUSE_DATABASE__POOL_SIZE"),
        ("GATEHOUSE_SERVER__POOLSIZE", "1", "GATEHOUSE_DATABASE__POOL_SIZE"),
        ("GATEHOUSE_SERVER__PORT", "1", "GATEHOUSE_USERS__PORT"),
        ("GATEHOUSE_TRACING__SAMPLE_RATIO", "1", "GATEHOUSE_TELEMETRY__SAMPLE_RATIO"),
        ("GATEHOUSE_SERVER__TLS_CA_FILE", "1", "GATEHOUSE_TLS__CA_FILE"),
        ("GATEHOUSE_SERVER", '{"pool_size": 1}', "GATEHOUSE_DATABASE__POOL_SIZE"),
        # Other levels.
        ("GATEHOUSE_METRICS__PORT", "1", "GATEHOUSE_TELEMETRY__METRICS_PORT"),
        ("GATEHOUSE_USERS__DATABASE__URL", "1", "GATEHOUSE_USERS__DATABASE_URL"),
        ("GATEHOUSE_DATABASE__URL", "1", "GATEHOUSE_USERS__DATABASE_URL"),
        ("GATEHOUSE_DATABASE_URL", "1", "GATEHOUSE_USERS__DATABASE_URL"),
        ("GATEHOUSE_POOL_SIZE", "1", "GATEHOUSE_DATABASE__POOL_SIZE"),
        ("GATEHOUSE_USERS_PORT", "50061", "GATEHOUSE_USERS__PORT"),
        ("GATEHOUSE_METRICS_PORT", "9464", "GATEHOUSE_TELEMETRY__METRICS_PORT"),
        ("GATEHOUSE_TELEMETRY_METRICS_PORT", "9464", "GATEHOUSE_TELEMETRY__METRICS_PORT"),
        # <part admin>
        ("GATEHOUSE_ADMIN__CLIENT_ID", "1", "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID"),
        ("GATEHOUSE_ADMIN__CLINT__SCOPE", "1", "GATEHOUSE_ADMIN__CLIENT__SCOPE"),
        # </part admin>
        # Not a setting, but without it settings would be ignored.
        ("GATEHOUSE_SECRET_DIR", "1", "GATEHOUSE_SECRETS_DIR"),
        ("gatehouse_profile", "1", "GATEHOUSE_PROFILE"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_setting(
    name: str, value: str, suggestion: str, set_environment: SetEnvironment
) -> None:
    set_environment(**{name: value})

    assert load_error().endswith(f": unknown setting; did you mean {suggestion}?")


@pytest.mark.parametrize(
    "name",
    ["GATEHOUSE_USERS__PORT__X", "GATEHOUSE_XYZ__ABC", "GATEHOUSE_SERVER__", "GATEHOUSE___"]
    + ["GATEHOUSE_ISSUERS__0__AUDIENCE"],
)
def test_unknown_name_with_levels_is_refused(name: str, set_environment: SetEnvironment) -> None:
    set_environment(**{name: "canary"})

    assert load_error().startswith(f"{name}: unknown setting; ")


@pytest.mark.parametrize(
    ("file", "suggestion"),
    [
        ("gatehouse_databse__migrate_url", "GATEHOUSE_DATABASE__MIGRATE_URL"),
        ("gatehouse_issuer", "GATEHOUSE_ISSUERS"),
    ],
)
def test_file_with_an_unknown_name_is_refused(file: str, suggestion: str, secrets_dir: Path) -> None:
    (secrets_dir / file).write_text("canary")

    assert load_error() == f"{file}: unknown setting; did you mean {suggestion}?"


@pytest.mark.parametrize(
    "name",
    ["GATEHOUSE_API_SECRET", "GATEHOUSE_PROFILE", "GATEHOUSE_TRACEBACK", "GATEHOUSER", "OTHER_SERVER__PORT"]
    # Kubernetes sets these for services called gatehouse and gatehouse-users.
    + ["GATEHOUSE_USERS_SERVICE_HOST", "GATEHOUSE_USERS_PORT_50051_TCP", "GATEHOUSE_ADMIN_SERVICE_SECRET"]
    + ["GATEHOUSE_USER_SERVICE_HOST", "GATEHOUSE_USERS_SERVICE_PORT", "GATEHOUSE_LOGGING", "GATEHOUSE_HOST"]
    + ["GATEHOUSE_PORT", "GATEHOUSE_SERVICE_HOST", "GATEHOUSE_PORT_50051_TCP_ADDR"],
)
def test_names_of_other_programs_are_ignored(name: str, set_environment: SetEnvironment) -> None:
    set_environment(**{name: "canary"})

    assert load() == settings_model()()


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:50051", "udp://[fd00::1]:53"])
def test_ports_that_kubernetes_sets_are_ignored(value: str, set_environment: SetEnvironment) -> None:
    """For services called gatehouse-users and gatehouse-metrics."""
    set_environment(GATEHOUSE_USERS_PORT=value, GATEHOUSE_METRICS_PORT=value)

    assert load() == settings_model()()


# Values.


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("GATEHOUSE_USERS__PORT", "canary", "must be an integer"),
        ("GATEHOUSE_USERS__PORT", "", "must be an integer"),
        ("GATEHOUSE_USERS__PORT", "65536", "less than or equal to 65535"),
        ("GATEHOUSE_USERS__PORT", "-1", "greater than or equal to 0"),
        ("GATEHOUSE_SERVER__DRAIN_SECONDS", "inf", "finite number"),
        ("GATEHOUSE_SERVER__DRAIN_SECONDS", "nan", "finite number"),
        ("GATEHOUSE_SERVER__MAX_DEADLINE_SECONDS", "0", "greater than or equal to 0.01"),
        *(
            (f"GATEHOUSE_{name}_SECONDS", "1e9", "less than or equal to 2000000")
            for name in ("SERVER__MAX_CONNECTION_AGE", "SERVER__DRAIN", "TELEMETRY__EXPORT")
        ),
        *(
            (f"GATEHOUSE_SERVER__{name}", "9999999999", "less than or equal to 1000000")
            for name in ("MAX_MESSAGE_BYTES", "MAX_METADATA_BYTES", "MAX_CONCURRENT_STREAMS")
        ),
        ("GATEHOUSE_SERVER__REFLECTION", "canary", "must be true or false"),
        ("GATEHOUSE_TELEMETRY__SAMPLE_RATIO", "1.5", "less than or equal to 1"),
        ("GATEHOUSE_LOG__LEVEL", "canary", "'debug', 'info', 'warning' or 'error'"),
        ("GATEHOUSE_DATABASE__ROLE_PREFIX", "Canary-1", "at most 40 characters of a-z, 0-9 and _"),
        ("GATEHOUSE_DATABASE__ROLE_PREFIX", "1canary", "and not begin with a digit"),
        ("GATEHOUSE_USERS__DATABASE_URL", "canary", "must be a URL such as postgresql://"),
        ("GATEHOUSE_USERS__DATABASE_URL", "https://canary", "must be a URL such as postgresql://"),
        ("GATEHOUSE_USERS__DATABASE_URL", "postgresql://canary:port@h:x/", "must be a URL such as"),
        ("GATEHOUSE_USERS__DATABASE_URL", "postgresql://h/d?sslmod=canary", "did you mean sslmode?"),
        ("GATEHOUSE_USERS__DATABASE_URL", "postgresql://h/d?canary=1", "a password as %3F and %26"),
        (
            "GATEHOUSE_DATABASE__MIGRATE_URL",
            "postgresql://h/d?sslmode=canary",
            "must be one of disable, allow",
        ),
        ("GATEHOUSE_USERS__DATABASE_URL", "postgresql://h/d?keepalives=canary", "must be one of 0, 1"),
        ("GATEHOUSE_USERS__DATABASE_URL", "postgresql://h/d?connect_timeout=canary", "must be an integer"),
        # <part admin>
        *(
            ("GATEHOUSE_ADMIN__USERS_TARGET", target, "must be host:port, or a target of gRPC")
            for target in ("", "http://canary:50051", "canary:", "canary:65536", "canary:port")
        ),
        ("GATEHOUSE_ADMIN__USERS_TARGET", "dns:///canary:port", "must be host:port, or a target of gRPC"),
        ("GATEHOUSE_ADMIN__USERS_TARGET", "can ary:1", "must be host:port, or a target of gRPC"),
        ("GATEHOUSE_ADMIN__USERS_TARGET", "unix:", "must be host:port, or a target of gRPC"),
        # </part admin>
        *(
            ("GATEHOUSE_TELEMETRY__OTLP_ENDPOINT", endpoint, "must be a URL such as")
            for endpoint in ("", "canary:4317", "http://", "grpc://canary:1", "https://u:canary@h:1")
        ),
        ("GATEHOUSE_TELEMETRY", {"otlp_endpoint": "http://canary:1"}, "write https, or set otlp_insecure"),
        (
            "GATEHOUSE_TELEMETRY",
            {"otlp_endpoint": "https://canary:1", "otlp_insecure": True},
            "remove one of them",
        ),
        *(
            (f"GATEHOUSE_{name}", host, "must be a host name or an IP address, without scheme and port")
            for name in ("SERVER__HOST", "TELEMETRY__METRICS_HOST", "TLS__SERVER_NAME")
            for host in ("", "canary:50051", "http://canary", "can ary", "[canary]:1")
        ),
        ("GATEHOUSE_TLS__CA_FILE", "", "must be the path of a file; it is empty"),
        ("GATEHOUSE_TLS__CERTIFICATE_FILE", "", "must be the path of a file; it is empty"),
        ("GATEHOUSE_SERVER", "canary{", "must be JSON"),
        ("GATEHOUSE_SERVER", '"canary"', "must be a JSON object"),
        ("GATEHOUSE_SERVER", '{"canary', "must be JSON"),
        ("GATEHOUSE_ISSUERS", "canary", "must be JSON"),
        ("GATEHOUSE_ISSUERS", '{"issuer": "canary"}', "must be a JSON list"),
        (
            "GATEHOUSE_ISSUERS",
            json.dumps([ISSUER, ISSUER | {"audience": "b"}]),
            "two entries have the same issuer; merge them, with a list as their audience",
        ),
    ],
)
def test_error_names_the_setting(
    name: str, value: object, reason: str, set_environment: SetEnvironment
) -> None:
    set_environment(**{name: value})
    line = load_error()

    assert line.startswith(f"{name}: ")
    assert reason in line


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"client_secret": ["canary"]}, ".client_secret", "valid string"),
        ({"client_secret_file": 1}, ".client_secret_file", "not a valid path"),
        ({"audience": None}, ".audience", "must be a string or a list of strings"),
        ({"mode": "canary"}, ".mode", "'jwt', 'introspection' or 'hybrid'"),
        ({"provider": "canary"}, ".provider", "'keycloak', 'auth0', 'okta', "),
        ({"leeway_seconds": 301}, ".leeway_seconds", "less than or equal to 300"),
        ({"mode": "hybrid"}, "", "mode hybrid needs client_id and client_secret"),
        ({"issuer": "http://canary.test"}, "", "issuer must be an https URL"),
    ],
    ids=str,
)
def test_error_of_an_issuer_says_which_one(
    changes: dict[str, Any], name: str, reason: str, set_environment: SetEnvironment
) -> None:
    set_environment(GATEHOUSE_ISSUERS=[ISSUER, ISSUER | {"client_secret": "canary"} | changes])
    line = load_error()

    assert line.startswith(f"GATEHOUSE_ISSUERS[1]{name}: ")
    assert reason in line


def test_further_errors_are_counted(set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_USERS__PORT="canary", GATEHOUSE_DATABASE__POOL_SIZE="canary")

    assert load_error().endswith("(and 1 more)")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    setting=st.sampled_from(["SERVER", "ISSUERS", "USERS__DATABASE_URL", "TELEMETRY__METRICS_PORT"]),
    value=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(
        lambda text: f"{text}canary"
    ),
)
def test_no_error_repeats_a_value(setting: str, value: str, set_environment: SetEnvironment) -> None:
    set_environment(**{f"GATEHOUSE_{setting}": value})
    try:
        assert load_error().startswith("GATEHOUSE_")
    finally:
        del os.environ[f"GATEHOUSE_{setting}"]


# The secrets directory.


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gatehouse_issuers", "GATEHOUSE_ISSUERS: FILE: must be JSON"),
        ("gatehouse_users__port", "GATEHOUSE_USERS__PORT: FILE: must be an integer"),
        ("gatehouse_users__database_url", "GATEHOUSE_USERS__DATABASE_URL: FILE: must be a URL such as "),
    ],
)
def test_error_in_a_file_names_the_setting_and_the_file(name: str, reason: str, secrets_dir: Path) -> None:
    (secrets_dir / name).write_text("canary")

    assert load_error().startswith(reason.replace("FILE", str(secrets_dir / name)))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("gatehouse_users", {"port": "canary"}, "GATEHOUSE_USERS__PORT: FILE: "),
        ("gatehouse_issuers", [ISSUER | {"mode": "canary"}], "GATEHOUSE_ISSUERS[0].mode: FILE: "),
        ("gatehouse_issuers", [ISSUER | {"aud": "canary"}], "GATEHOUSE_ISSUERS[0].aud: FILE: unknown key"),
    ],
)
def test_error_in_a_json_file_names_the_file(name: str, value: Any, place: str, secrets_dir: Path) -> None:
    (secrets_dir / name).write_text(json.dumps(value))

    assert load_error().startswith(place.replace("FILE", str(secrets_dir / name)))


def test_error_in_a_variable_names_no_file(secrets_dir: Path, set_environment: SetEnvironment) -> None:
    (secrets_dir / "gatehouse_users__port").write_text("1")
    set_environment(GATEHOUSE_USERS__PORT="canary")

    assert load_error().startswith("GATEHOUSE_USERS__PORT: must be an integer")


def test_file_that_is_not_text_is_refused(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_users__database_password").write_bytes(b"canary\xff")

    (secrets_dir / "gatehouse_users__database_url").write_text("canary")
    file = secrets_dir / "gatehouse_users__database_password"
    assert load_error() == f"GATEHOUSE_SECRETS_DIR: {file}: not UTF-8 text"


def test_secrets_directory_that_is_too_large_is_refused(secrets_dir: Path) -> None:
    (secrets_dir / "gatehouse_users__database_password").write_text("canary" * 4_000_000)

    assert load_error() == (
        f"GATEHOUSE_SECRETS_DIR: {secrets_dir}: too large; name a directory that contains only secrets"
    )


def test_missing_secrets_directory_is_refused(tmp_path: Path, set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_SECRETS_DIR=str(tmp_path / "missing"))

    assert load_error() == (
        f"GATEHOUSE_SECRETS_DIR: cannot read {tmp_path}/missing (No such file or directory)"
    )


def test_secrets_directory_that_is_a_file_is_refused(tmp_path: Path, set_environment: SetEnvironment) -> None:
    (tmp_path / "file").write_text("canary")
    set_environment(GATEHOUSE_SECRETS_DIR=str(tmp_path / "file"))

    assert load_error() == f"GATEHOUSE_SECRETS_DIR: cannot read {tmp_path}/file (Not a directory)"


def test_unknown_key_of_an_issuer_is_refused_with_the_nearest_key(set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_ISSUERS=[{"client_scret": CANARY}])

    assert load_error() == "GATEHOUSE_ISSUERS[0].client_scret: unknown key; did you mean client_secret?"
    for key, meant in {
        "aud": "audience",
        "jwks": "jwks_uri",
        "alg": "algorithms",
        "secret": "client_secret",
    }.items():
        set_environment(GATEHOUSE_ISSUERS=[{key: CANARY}])
        assert load_error().endswith(f".{key}: unknown key; did you mean {meant}?")


# <part admin>
@pytest.mark.parametrize(
    "target",
    ["users:50051", "users", "127.0.0.1:1", "[::1]:50051", "::1", "dns:///users:50051", "dns:users:1"]
    + [
        "dns://8.8.8.8/users:50051",
        "ipv4:10.0.0.1:1,10.0.0.2:2",
        "ipv6:[::1]:1",
        "unix:/run/users",
        "xds:///users",
    ],
)
def test_target_of_grpc_is_accepted(target: str, set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_ADMIN__USERS_TARGET=target)

    assert load().admin.users_target == target


# </part admin>


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "fe80::1%eth0", "users.example.com"])
def test_host_is_accepted(host: str, set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_SERVER__HOST=host)

    assert load().server.host == host


def test_parameters_of_database_urls_are_those_of_libpq() -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}

    assert known <= PARAMETERS
