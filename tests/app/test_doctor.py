"""`gatehouse doctor`: the failures of a first start, produced for real, and what it says about them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from gatehouse.app.services import SERVICES, migration_branches
from gatehouse.cli import program_name
from gatehouse.runtime.doctor import Problem, Status, attempt
from gatehouse.storage.migrations import migrate
from gatehouse_testbed import certificates
from gatehouse_testbed.tracing.receiver import TraceStore, receive_spans
from tests.support.certificates import Authority
from tests.support.cli import Cli
from tests.support.database import named
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    METADATA,
    LoopbackIssuer,
    SigningKey,
    loopback_issuer,
)

PASSWORD = "canary-password"
NOW = dt.datetime.now(dt.UTC)


@dataclass
class Doctor:
    """Runs `gatehouse doctor` with settings with which all services can start."""

    cli: Cli
    issuer: LoopbackIssuer
    authority: Authority
    settings: dict[str, Any]
    issuer_settings: dict[str, Any] = field(default_factory=dict)

    async def __call__(self, *services: str, code: int = 1, **settings: Any) -> dict[str, tuple[str, str]]:
        """Return status and detail of each check."""
        accepted = {"GATEHOUSE_ISSUERS": [self.issuer_settings]}
        self.cli.set(**(accepted | self.settings | settings))
        done = await asyncio.to_thread(self.cli, "doctor", *services, "--format", "json")
        assert (done.code, done.err) == (code, "")
        assert "canary" not in done.out
        return {row["check"]: (row["status"], row["detail"]) for row in json.loads(done.out)}


@pytest.fixture
async def doctor(
    cli: Cli, database_urls: dict[str, str], authority: Authority, tmp_path: Path
) -> AsyncIterator[Doctor]:
    certificate, key = authority.write(*authority.issue())
    key.chmod(0o600)
    settings = {f"GATEHOUSE_{name.upper()}__DATABASE_URL": url for name, url in database_urls.items()}
    settings |= {
        "GATEHOUSE_USERS__PORT": "0",
        # <part admin>
        "GATEHOUSE_ADMIN__PORT": "0",
        # </part admin>
        "GATEHOUSE_TLS__CERTIFICATE_FILE": str(certificate),
        "GATEHOUSE_TLS__PRIVATE_KEY_FILE": str(key),
        "GATEHOUSE_TLS__CA_FILE": str(authority.ca_file),
    }
    del settings["GATEHOUSE_OWNER__DATABASE_URL"]
    async with loopback_issuer() as issuer:
        accepted = {
            "issuer": issuer.issuer,
            "audience": AUDIENCE,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        yield Doctor(cli, issuer, authority, settings, accepted)


async def test_all_checks_pass_with_settings_that_work(doctor: Doctor, tmp_path: Path) -> None:
    secret = tmp_path / "client_secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{CLIENT_SECRET}\n")
    doctor.issuer_settings |= {"client_secret": None, "client_secret_file": str(secret)}
    exports: list[bytes] = []
    with receive_spans(TraceStore(), exports.append) as endpoint:
        found = await doctor(
            "users",
            code=0,
            GATEHOUSE_TELEMETRY__OTLP_ENDPOINT=endpoint,
            GATEHOUSE_TELEMETRY__OTLP_INSECURE="true",
        )

    assert {status for status, _ in found.values()} == {"ok"}
    assert list(found) == [
        "settings",
        "secrets",
        "tls",
        "tls: certificate",
        "tls: authorities",
        "issuers[0]: discovery",
        "issuers[0]: keys",
        "issuers[0]: introspection",
        "collector",
        "users: settings",
        "users: port",
        "users: metrics",
        "users: database",
        "users: login role",
        "users: migrations",
    ]
    assert found["secrets"][1] == "2 set, 2 of them in files"
    assert exports == [b""]


# Secrets and settings.


async def test_settings_that_cannot_be_loaded_are_one_line(doctor: Doctor) -> None:
    doctor.cli.set(**doctor.settings | {"GATEHOUSE_USERS__PORT": "canary"})
    done = await asyncio.to_thread(doctor.cli, "doctor")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gatehouse: GATEHOUSE_USERS__PORT: must be an integer")
    assert done.err.count("\n") == 1


# <part admin>
async def test_without_names_the_services_that_have_settings_are_checked(doctor: Doctor) -> None:
    del doctor.settings["GATEHOUSE_ADMIN__PORT"], doctor.settings["GATEHOUSE_ADMIN__DATABASE_URL"]
    found = await doctor(code=0)

    assert {name for name in SERVICES if f"{name}: database" in found} == set(SERVICES) - {"admin"}


async def test_missing_setting_of_a_service_is_named(doctor: Doctor) -> None:
    found = await doctor("admin")

    status, detail = found["admin: settings"]
    assert status == "failed"
    assert detail.startswith(
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID and GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET: "
    )
    assert found["admin: database"][0] == "ok"


# </part admin>


async def test_missing_issuer_leaves_the_other_checks(doctor: Doctor) -> None:
    found = await doctor("users", GATEHOUSE_ISSUERS="[]")

    assert found["users: settings"][1].startswith("GATEHOUSE_ISSUERS: no issuer is configured")
    assert found["users: migrations"][0] == "ok"


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (" ", "begins or ends with white space, such as a newline; remove it"),
        ("", "empty; set it"),
        ("canary\n", "begins or ends with white space, such as a newline; remove it"),
    ],
)
async def test_empty_secret_or_one_with_a_newline_is_reported(
    doctor: Doctor, secret: str, problem: str
) -> None:
    found = await doctor("users", GATEHOUSE_USERS__DATABASE_PASSWORD=secret)

    assert found["secrets"] == ("failed", f"GATEHOUSE_USERS__DATABASE_PASSWORD: {problem}")


async def test_secret_file_that_others_can_read_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    file = folder / "gatehouse_users__database_password"
    file.write_text("canary\n")
    file.chmod(0o644)
    found = await doctor("users", code=0, GATEHOUSE_SECRETS_DIR=str(folder))

    status, detail = found["secrets"]
    assert status == "warning"
    assert detail.startswith(f"GATEHOUSE_USERS__DATABASE_PASSWORD: {file}: every user of this machine can")
    assert detail.endswith(f" (mode 0644); run: chmod o= {file}")
    assert f"1 from {folder}" in found["settings"][1]


# Certificates.


def issue(
    doctor: Doctor, names: tuple[str, ...] = ("localhost", "127.0.0.1"), *, days: float = 30, age: float = 0
) -> None:
    """Write a certificate for `names` that was issued `age` days ago for `days` days."""
    then = NOW - dt.timedelta(days=age)
    authority = certificates.Authority.create(NOW - dt.timedelta(days=100), lifetime=dt.timedelta(days=300))
    doctor.authority.ca_file.write_bytes(authority.pair.certificate)
    pair = authority.issue(names, then, lifetime=dt.timedelta(days=days))
    doctor.authority.write(pair.certificate, pair.private_key)


async def test_certificate_is_checked_against_the_name_of_the_server(doctor: Doctor) -> None:
    issue(doctor, ("users.example.com",))
    status, detail = (await doctor("users", code=0))["tls"]
    assert status == "ok"
    assert "server.pem: valid for users.example.com, trusted by the authorities in " in detail

    status, detail = (await doctor("users", GATEHOUSE_TLS__SERVER_NAME="other.example.com"))["tls"]
    assert status == "failed"
    assert "hostname mismatch" in detail
    assert "'other.example.com'; correct GATEHOUSE_TLS__SERVER_NAME" in detail


@pytest.mark.parametrize(
    ("age", "days", "status", "part"),
    [
        (40, 30, "failed", "expired on "),
        (-10, 30, "failed", "not valid before "),
        (20, 30, "warning", "in 9 days; renew it"),
    ],
    ids=["expired", "not yet valid", "soon"],
)
async def test_validity_of_the_certificate_is_checked(
    doctor: Doctor, age: float, days: float, status: str, part: str
) -> None:
    issue(doctor, age=age, days=days)
    found = await doctor("users", code=status == "failed")

    assert found["tls: certificate"][0] == status
    assert part in found["tls: certificate"][1]


async def test_certificate_of_an_authority_that_clients_do_not_trust_is_reported(doctor: Doctor) -> None:
    other = certificates.Authority.create(NOW, name="other")
    doctor.authority.ca_file.write_bytes(other.pair.certificate)
    status, detail = (await doctor("users"))["tls"]

    assert status == "failed"
    assert f"the authorities in {doctor.authority.ca_file} do not confirm it" in detail


async def test_key_of_another_certificate_is_reported_once(doctor: Doctor) -> None:
    _, key = doctor.authority.issue()
    doctor.authority.write(doctor.authority.issue()[0], key)
    found = await doctor("users")

    assert found["tls"][1].endswith("provide the matching key")
    assert "users: settings" not in found


# Ports.


@pytest.fixture
async def other_program() -> AsyncIterator[int]:
    """The port of a program that closes every connection."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_ports_of_another_program_are_reported(doctor: Doctor, other_program: int) -> None:
    found = await doctor(
        "users",
        GATEHOUSE_USERS__PORT=str(other_program),
        GATEHOUSE_TELEMETRY__METRICS_PORT=str(other_program),
    )

    for check, setting in (("port", "USERS__PORT"), ("metrics", "TELEMETRY__METRICS_PORT")):
        status, detail = found[f"users: {check}"]
        assert status == "failed"
        assert detail.startswith(f"127.0.0.1:{other_program}: used by another program, or by ")
        assert detail.endswith(f"; stop it, or set GATEHOUSE_{setting}")


async def test_address_of_another_machine_is_reported(doctor: Doctor) -> None:
    found = await doctor("users", GATEHOUSE_SERVER__HOST="192.0.2.1", GATEHOUSE_USERS__PORT="50051")

    status, detail = found["users: port"]
    assert status == "failed"
    assert detail.startswith("192.0.2.1:50051: cannot listen (cannot assign requested address); correct ")


# Issuers.


async def test_issuer_that_calls_itself_otherwise_is_reported(doctor: Doctor) -> None:
    url = f"{doctor.issuer.issuer}/"
    doctor.issuer.answer(METADATA, Reply(doctor.issuer.metadata() | {"issuer": url}))
    status, detail = (await doctor("users"))["issuers[0]: discovery"]

    assert status == "failed"
    assert detail.startswith(
        f"discovery_issuer_mismatch (expected {doctor.issuer.issuer}, found {url}); set `issuer` to exactly "
    )


async def test_unreachable_issuers_are_distinguished(doctor: Doctor, other_program: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*doctor.authority.write(*doctor.authority.issue()))
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context) as server:
        private = server.sockets[0].getsockname()[1]
        urls = {
            "http://127.0.0.1:1": "connection refused",
            "https://issuer.invalid": "unknown host",
            f"https://127.0.0.1:{private}": "certificate not accepted: unable to get",
            f"http://127.0.0.1:{other_program}": "connection ",  # reset or closed
        }
        accepted = [doctor.issuer_settings | {"issuer": url} for url in urls]
        found = await doctor("users", GATEHOUSE_ISSUERS=accepted)

    for index, reason in enumerate(urls.values()):
        status, detail = found[f"issuers[{index}]: discovery"]
        assert (status, reason in detail) == ("failed", True), detail
        assert "; check that the issuer runs, its URL, " in detail


async def test_issuer_without_metadata_is_reported(doctor: Doctor) -> None:
    doctor.issuer.answer(METADATA, Reply(status=404))
    status, detail = (await doctor("users"))["issuers[0]: discovery"]

    assert status == "failed"
    assert "HTTP 404" in detail
    assert "; check `issuer`, or set `discovery_url`" in detail


async def test_keys_for_other_algorithms_are_reported(doctor: Doctor) -> None:
    doctor.issuer_settings["algorithms"] = ["RS256"]
    doctor.issuer.keys = [SigningKey.make("one", "ES384")]
    found = await doctor("users")

    status, detail = found["issuers[0]: keys"]
    assert status == "failed"
    assert detail.startswith("keys_unusable (1 keys, for ES384; accepted RS256); set `algorithms`")


async def test_wrong_secret_and_unavailable_introspection_are_distinguished(doctor: Doctor) -> None:
    doctor.issuer_settings["client_secret"] = "canary-wrong"
    status, detail = (await doctor("users"))["issuers[0]: introspection"]
    assert status == "failed"
    assert "introspection_refused" in detail
    assert "; check `client_id` and `client_secret`" in detail

    doctor.issuer.answer("introspect", Reply(hang_up=True))
    status, detail = (await doctor("users"))["issuers[0]: introspection"]
    assert status == "failed"
    assert "introspection_unreachable" in detail


async def test_discovery_is_not_needed_if_all_endpoints_are_configured(doctor: Doctor) -> None:
    doctor.issuer.answer(METADATA, Reply(status=404))
    doctor.issuer_settings |= {
        "jwks_uri": doctor.issuer.url("jwks"),
        "introspection_endpoint": doctor.issuer.url("introspect"),
    }
    found = await doctor("users", code=0)

    assert "issuers[0]: discovery" not in found
    assert found["issuers[0]: introspection"][0] == "ok"


@pytest.mark.parametrize(
    ("ahead", "status", "part"),
    [
        (0, "ok", "agrees with this machine"),
        (-40, "warning", "s ahead of the issuer, within `leeway_seconds` (60)"),
        (400, "failed", "s behind the issuer, more than `leeway_seconds` (60)"),
    ],
)
async def test_clock_is_compared_with_that_of_the_issuer(
    doctor: Doctor, ahead: float, status: str, part: str
) -> None:
    def metadata(_: Request) -> Reply:
        date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead)
        return Reply(doctor.issuer.metadata(), headers={"date": format_datetime(date, usegmt=True)})

    doctor.issuer.answer(METADATA, metadata)
    found = await doctor("users", code=status == "failed")

    assert found["issuers[0]: clock"][0] == status
    assert part in found["issuers[0]: clock"][1]


# Databases.


async def test_stopped_database_is_reported(doctor: Doctor) -> None:
    url = "postgresql://gatehouse_users:canary@127.0.0.1:1/gatehouse"
    found = await doctor("users", GATEHOUSE_USERS__DATABASE_URL=url)
    status, detail = found["users: database"]

    assert status == "failed"
    assert "127.0.0.1" in detail
    assert "onnection refused" in detail
    assert detail.endswith("check that it runs, and GATEHOUSE_USERS__DATABASE_URL")
    assert "users: migrations" not in found


async def test_standby_that_cannot_be_used_is_a_warning(doctor: Doctor) -> None:
    url = doctor.settings["GATEHOUSE_USERS__DATABASE_URL"]
    found = await doctor("users", code=0, GATEHOUSE_USERS__STANDBY_URL=url)
    status, detail = found["users: standby"]
    assert status == "warning"
    assert detail.startswith("the server is not a standby; the primary answers all reads")


async def test_unknown_database_is_reported(doctor: Doctor) -> None:
    url = doctor.settings["GATEHOUSE_USERS__DATABASE_URL"]
    found = await doctor("users", GATEHOUSE_USERS__DATABASE_URL=named(url, "nothing", "gatehouse_users"))

    assert 'database "nothing" does not exist' in found["users: database"][1]


# <part admin>
@pytest.fixture
def empty_database(database_urls: dict[str, str]) -> Iterator[str]:
    """The URL of the owner of a database without any table."""
    owner = database_urls["owner"]
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE DATABASE doctor_empty")
    yield named(owner, "doctor_empty")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("DROP DATABASE doctor_empty WITH (FORCE)")


async def test_missing_schema_and_pending_migrations_name_the_command(
    doctor: Doctor, empty_database: str
) -> None:
    url = named(empty_database, "doctor_empty", "gatehouse_admin")
    doctor.settings["GATEHOUSE_ADMIN__DATABASE_URL"] = url
    found = await doctor("admin")
    command = f"run `{program_name()} migrate`"
    assert found["admin: migrations"] == ("failed", f"tables of admin are missing; {command}")

    (branch,) = (branch for branch in migration_branches() if branch.name == "admin")
    _, *later = migrate(empty_database, [branch])
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE admin.alembic_version SET version_num = '0001_admin'")
    found = await doctor("admin")
    assert found["admin: migrations"] == ("failed", f"pending: {', '.join(later)}; {command}")

    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE admin.alembic_version SET version_num = '9999_future'")
    found = await doctor("admin")
    status, detail = found["admin: migrations"]
    assert (status, detail.partition(";")[0]) == ("warning", "at admin/9999_future of a newer version")


# </part admin>


async def test_superuser_and_owner_are_more_than_a_service_needs(
    doctor: Doctor, database_urls: dict[str, str]
) -> None:
    found = await doctor("users", code=0, GATEHOUSE_USERS__DATABASE_URL=database_urls["owner"])

    assert found["users: login role"][0] == "warning"
    assert "use gatehouse_users, which has only the privileges" in found["users: login role"][1]


async def test_read_only_database_is_reported(doctor: Doctor, database_urls: dict[str, str]) -> None:
    name = database_urls["owner"].rpartition("/")[2].partition("?")[0]
    with psycopg.connect(database_urls["owner"], autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        found = await doctor("users")
    finally:
        with psycopg.connect(database_urls["owner"], autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    assert found["users: database"][0] == "failed"
    assert found["users: database"][1].startswith("the database is read-only for gatehouse_users")


# The collector.


async def test_collectors_that_do_not_accept_spans_are_reported(doctor: Doctor) -> None:
    collector = {"GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true"}
    endpoints = {
        "http://127.0.0.1:1": "http://127.0.0.1:1: connection refused; start the server, or correct",
        "http://collector.invalid:1": "http://collector.invalid:1: the name cannot be resolved",
    }
    for endpoint, problem in endpoints.items():
        found = await doctor("users", **collector, GATEHOUSE_TELEMETRY__OTLP_ENDPOINT=endpoint)
        status, detail = found["collector"]
        assert (status, detail.startswith(problem)) == ("failed", True), detail

    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        collector["GATEHOUSE_TELEMETRY__OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        found = await doctor("users", **collector)
    finally:
        await server.stop(None)
    assert found["collector"][1].endswith("another server listens there; correct the address")


# <part admin>
# AdminService.


@pytest.fixture
def admin(doctor: Doctor) -> Doctor:
    doctor.settings |= {
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "admin",
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": "canary-admin",
        "GATEHOUSE_ADMIN__USERS_TARGET": "127.0.0.1:1",
    }
    return doctor


async def test_unreachable_user_service_and_refused_client_are_reported(admin: Doctor) -> None:
    admin.issuer.answer("token", Reply({"error": "invalid_client"}, 401))
    found = await admin("admin")

    assert found["admin: settings"][0] == "ok"
    problem = "127.0.0.1:1: connection refused; start the server, or correct the address"
    assert found["admin: UserService"] == ("failed", problem)
    status, detail = found["admin: client"]
    assert status == "failed"
    assert detail.startswith("GATEHOUSE_ADMIN__CLIENT: invalid_client")
    assert detail.endswith("; check the client id and the client secret")


async def test_user_service_with_another_name_in_its_certificate_is_reported(admin: Doctor) -> None:
    issue(admin, ("users.example.com",))
    certificate, key = (admin.authority.folder / name for name in ("server.pem", "server.key"))
    server = grpc.aio.server()
    pair = [(key.read_bytes(), certificate.read_bytes())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    await server.start()
    try:
        found = await admin("admin", GATEHOUSE_ADMIN__USERS_TARGET=f"127.0.0.1:{port}")
        admin.authority.ca_file.write_bytes(certificates.Authority.create(NOW).pair.certificate)
        distrusting = await admin("admin", GATEHOUSE_ADMIN__USERS_TARGET=f"127.0.0.1:{port}")
    finally:
        await server.stop(None)

    assert "its certificate is for another name" in found["admin: UserService"][1]
    assert "its certificate is not trusted" in distrusting["admin: UserService"][1]


async def test_rule_that_needs_introspection_is_reported_for_an_issuer_without_it(admin: Doctor) -> None:
    admin.issuer_settings["mode"] = "jwt"
    status, detail = (await admin("admin"))["admin: settings"]

    assert status == "warning"
    assert detail.startswith("gatehouse.admin.v1.AdminService/")
    assert detail.endswith("; set `mode` to hybrid")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("", ""),
        ("unsupported_grant_type", "allow token exchange for the client at the issuer, or set "),
        ("invalid_request", "allow token exchange for the client at the issuer, or set "),
    ],
)
async def test_token_exchange_is_checked_if_user_service_is_called_for_the_caller(
    admin: Doctor, error: str, hint: str
) -> None:
    def answer(request: Request) -> Reply:
        if error and "subject_token" in request.form:
            return Reply({"error": error}, 400)
        return Reply({"access_token": "a-token", "token_type": "Bearer", "expires_in": 300})

    admin.issuer.answer("token", answer)
    assert "admin: token exchange" not in await admin("admin")
    found = await admin("admin", GATEHOUSE_ADMIN__CALL_USERS_AS="caller")
    status, detail = found["admin: token exchange"]
    assert found["admin: client"][0] == "ok"
    if not error:
        assert (status, detail) == ("ok", "admin exchanges tokens")
        assert admin.issuer.last("token").form["subject_token"] == "a-token"
        return
    assert status == "failed"
    assert detail.startswith(f"token exchange of admin: {error} (")
    assert detail.endswith(f"{hint}GATEHOUSE_ADMIN__CALL_USERS_AS=service")


async def test_token_exchange_works_for_callers_of_one_issuer_only(admin: Doctor) -> None:
    other = admin.issuer_settings | {"issuer": "https://other.test", "mode": "jwt"}
    admin.settings["GATEHOUSE_ISSUERS"] = json.dumps([admin.issuer_settings, other])
    found = await admin("admin", GATEHOUSE_ADMIN__CALL_USERS_AS="caller")
    status, detail = found["admin: token exchange"]
    assert status == "warning"
    assert detail.startswith(f"only for callers of {admin.issuer.issuer};")


async def test_role_sync_is_checked_without_a_change(admin: Doctor) -> None:
    users = f"{admin.issuer.base_url.replace('/realms/', '/admin/realms/')}"
    admin.settings["GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL"] = users
    admin.settings["GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET"] = "canary-role-sync"
    found = await admin("admin")
    assert found["admin: role sync"][0] == "failed"
    assert "not_found; check GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL" in found["admin: role sync"][1]
    assert all(request.method == "GET" for request in admin.issuer.requests if "/admin/" in request.path)


# </part admin>
# How a check is run.


async def test_check_that_takes_too_long_fails() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    result = await attempt("x", hang(), seconds=0.01)
    assert (result.status, result.detail) == (Status.FAILED, "no answer within 0.01 s")


async def test_text_of_an_unexpected_error_is_not_shown() -> None:
    async def fail(error: Exception) -> str:
        raise error

    assert (await attempt("x", fail(ValueError("canary")))).detail == "unexpected error: ValueError"
    assert (await attempt("x", fail(Problem("wrong", Status.WARNING)))).status is Status.WARNING
