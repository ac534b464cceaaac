"""The command line against the running system."""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path

import psycopg
import pytest

from gatehouse.app.services import SERVICES
from gatehouse.cli import program_name
from gatehouse_testbed.ports import free_port
from tests.support import browser
from tests.support.cli import Cli, start
from tests.support.system import System


@pytest.fixture
def configured(cli: Cli, system: System) -> Cli:
    """The command line with the profile and the settings of the system."""
    for name, value in system.settings.items():
        if name.startswith("GATEHOUSE_"):
            cli.set(**{name: value})
    cli.set(GATEHOUSE_PROFILE=str(system.profile))
    return cli


def create(cli: Cli) -> str:
    user = {"email": f"{uuid.uuid4().hex}@example.test", "display_name": "Carol"}
    done = cli(
        "call", "users", "CreateUser", "--client", "gatehouse-worker", "--data", json.dumps({"user": user})
    )
    assert (done.code, done.err) == (0, "")
    found: str = json.loads(done.out)["user_id"]
    return found


def test_unary_call_prints_the_response_as_json(configured: Cli) -> None:
    user_id = create(configured)
    done = configured("call", "users", "GetUser", "--as", "bob", "--data", json.dumps({"user_id": user_id}))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["display_name"] == "Carol"


def test_call_without_a_token_prints_the_challenge(configured: Cli) -> None:
    done = configured("call", "users", "CountUsers")
    assert done.code == 1
    assert done.err.splitlines() == [
        "gatehouse: UNAUTHENTICATED: missing access token (TOKEN_MISSING)",
        'gatehouse: www-authenticate: Bearer realm="gatehouse", scope="read:users"',
        f"gatehouse: no token was sent; log in with `{program_name()} login`, or name a user with --as",
    ]


def test_caller_without_permission_is_refused_by_the_service_not_by_the_issuer(configured: Cli) -> None:
    for who in (("--as", "carol"), ("--client", "gatehouse-admin-service")):
        done = configured("call", "users", "DeleteUser", *who)
        assert done.code == 1
        assert done.err.startswith("gatehouse: PERMISSION_DENIED")


def test_stored_login_calls_and_says_who_has_ended_it(
    configured: Cli, system: System, tmp_path: Path
) -> None:
    configured.set(XDG_STATE_HOME=str(tmp_path))
    worker = ("--client-credentials", "--client-id", "gatehouse-worker", "--scope", "read:users")
    assert configured("login", *worker).code == 0
    # A token that the service rejects is replaced.
    first = configured("token", "obtain").out
    assert configured("token", "revoke", "-", "--client", "gatehouse-worker", given=first).code == 0
    done = configured("call", "users", "CountUsers")
    assert (done.code, done.err) == (0, "")
    assert configured("token", "obtain").out != first
    done = configured("call", "users", "DeleteUser")
    assert (done.code, done.err.startswith("gatehouse: PERMISSION_DENIED")) == (1, True)
    configured("login", *worker)
    revoked = configured("token", "obtain").out
    assert configured("token", "revoke", "-", "--client", "gatehouse-worker", given=revoked).code == 0
    for code in (1, 0):  # a stream is not sent again, but the next one has another token
        assert configured("call", "users", "WatchUsers", "--limit", "1").code == code
    # If there is no other, the login has ended.
    program = f"{sys.executable} {browser.__file__} username=bob&password=bob %s"
    environment = {"GATEHOUSE_PROFILE": str(system.profile), "XDG_STATE_HOME": str(tmp_path)}
    with start("login", BROWSER=program, **environment) as process:
        process.communicate(timeout=60)
    (tokens,) = tmp_path.rglob("tokens.json")
    refresh_token = json.loads(tokens.read_text())["refresh_token"]
    assert configured("token", "revoke", "-", given=refresh_token).code == 0
    done = configured("call", "users", "GetCurrentUser")
    assert (done.code, done.err) == (
        1,
        f"gatehouse: the login has ended (invalid_grant); log in again with `{program_name()} login`\n",
    )


def test_invalid_request_prints_the_field(configured: Cli) -> None:
    done = configured("call", "users", "GetUser", "--as", "bob")
    assert done.code == 1
    assert done.err.splitlines()[1].startswith("gatehouse: user_id: ")


def test_server_stream_prints_its_responses_up_to_the_limit(configured: Cli) -> None:
    done = configured("call", "users", "WatchUsers", "--as", "bob", "--limit", "1")
    assert (done.code, done.err, len(done.lines)) == (0, "", 1)
    assert "resume_token" in json.loads(done.out)


def test_requests_of_a_stream_are_a_list_or_lines_of_standard_input(configured: Cli) -> None:
    ids = [create(configured), str(uuid.uuid4())]
    requests = [{"user_id": i} for i in ids]
    as_list = configured("call", "users", "LookupUsers", "--as", "bob", "--data", json.dumps(requests))
    lines = "\n".join(map(json.dumps, requests))
    as_lines = configured("call", "users", "LookupUsers", "--as", "bob", "--data", "-", given=f"{lines}\n\n")
    assert (as_list.code, as_list.err) == (as_lines.code, as_lines.err) == (0, "")
    assert as_list.out == as_lines.out
    assert [json.loads(line)["user_id"] for line in as_lines.lines] == ids
    rows = [{"row_number": 1, "email": "nonsense", "display_name": "x"}]
    done = configured(
        "call",
        "users",
        "ImportUsers",
        "--client",
        "gatehouse-worker",
        "--data",
        "-",
        given=json.dumps(rows[0]),
    )
    assert json.loads(done.out)["failed_count"] == "1"


def test_invalid_line_of_standard_input_ends_the_call(configured: Cli) -> None:
    given = json.dumps({"user_id": str(uuid.uuid4())}) + '\n{"user": 1}\n'
    done = configured("call", "users", "LookupUsers", "--as", "bob", "--data", "-", given=given)
    assert done.code == 2
    assert done.err.startswith("gatehouse: line 2 of standard input: not a LookupUsersRequest")
    assert done.err.count("\n") == 1


def test_request_of_a_unary_call_can_come_from_standard_input(configured: Cli) -> None:
    done = configured("call", "users", "ListUsers", "--as", "bob", "--data", "-", given='{"page_size": 1}')
    assert done.code == 0
    assert len(json.loads(done.out)["users"]) == 1


def test_token_is_obtained_decoded_introspected_and_revoked(configured: Cli) -> None:
    token = configured("token", "obtain", "--as", "alice", "--scope", "read:users").out
    decoded = json.loads(configured("token", "decode", "-", given=token).out)
    assert decoded["claims"]["scope"] == "read:users"
    assert decoded["header"]["alg"] == "ES256"
    assert json.loads(configured("token", "introspect", "-", given=token).out)["username"] == "alice"
    assert configured("call", "users", "CountUsers", "--token", "-", given=token).code == 0
    assert configured("token", "revoke", "-", given=token).out == "revoked\n"
    done = configured("token", "introspect", "-", given=token)
    assert (done.code, json.loads(done.out)) == (1, {"active": False})


def test_token_of_a_client_is_revoked_by_that_client_only(configured: Cli) -> None:
    token = configured("token", "obtain", "--client", "gatehouse-worker").out.strip()
    assert configured("token", "revoke", token).code == 1
    assert configured("token", "revoke", token, "--client", "gatehouse-worker").code == 0


def test_refusal_of_the_issuer_is_one_line(configured: Cli, system: System) -> None:
    unknown = configured("token", "obtain", "--client", "gatehouse-worker", "--scope", "admin")
    assert unknown.code == 1
    assert unknown.err == (
        "gatehouse: the issuer refused (invalid_scope); check the user, the client and the scopes\n"
    )
    nobody = configured("token", "obtain", "--as", "dave")
    assert nobody.code == 2
    assert nobody.err.startswith("gatehouse: dave: no password in the profile")
    stranger = configured("token", "obtain", "--client", "stranger")
    assert stranger.code == 2
    assert stranger.err.startswith("gatehouse: stranger: no client secret in the profile")


def test_healthcheck_distinguishes_serving_from_unreachable(configured: Cli, system: System) -> None:
    assert configured("healthcheck", "users").out == "users  SERVING\n"
    # <part admin>
    assert configured("healthcheck", "admin", "--liveness").code == 0
    # </part admin>
    away = json.loads(system.profile.read_text())
    away["targets"]["users"] = f"localhost:{free_port()}"
    profile = system.folder / "away.json"
    profile.write_text(json.dumps(away))
    done = configured("healthcheck", "users", "--timeout", "1", GATEHOUSE_PROFILE=str(profile))
    assert (done.code, done.out) == (3, "users  UNREACHABLE\n")
    done = configured("call", "users", "CountUsers", "--token", "x", "--timeout", "5")
    assert done.code == 3
    assert done.err.startswith("gatehouse: UNAVAILABLE")
    assert away["targets"]["users"] in done.err
    assert done.err.count("\n") == 1


def test_untrusted_certificate_is_one_line(configured: Cli, system: System) -> None:
    profile = system.folder / "distrust.json"
    profile.write_text(json.dumps(json.loads(system.profile.read_text()) | {"ca_file": None}))
    done = configured("call", "users", "CountUsers", "--token", "x", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_second_start_on_the_same_port_is_one_line(configured: Cli, system: System) -> None:
    port = system.ports["users"]
    for more in ((), ("--workers", "2")):
        done = configured("serve", "users", *more)
        assert done.code == 3
        assert done.err.startswith(f"gatehouse: 127.0.0.1:{port}: cannot listen; correct host or port")
        assert done.err.count("\n") == 1
    done = configured("issuer", "--port", str(system.issuer_ports["issuer"]))
    assert done.code == 3
    assert "cannot listen" in done.err


def test_migrations_are_checked_and_run_on_the_configured_database(configured: Cli) -> None:
    assert configured("migrate", "--check").out == "no pending migrations\n"
    assert configured("migrate").out == "no pending migrations\n"


async def test_a_service_runs_on_the_schema_of_a_newer_version(configured: Cli, system: System) -> None:
    """As during a roll-out, in which the migration comes first, and after a rollback."""
    port = free_port()
    with psycopg.connect(system.owner_url, autocommit=True) as connection:
        version = connection.execute("SELECT version_num FROM users.alembic_version").fetchone()
        connection.execute("UPDATE users.alembic_version SET version_num = '9999_later'")
        try:
            done = configured("migrate", "--check")
            assert (done.code, done.out.splitlines()[-1]) == (0, "no pending migrations")
            assert done.out.startswith("newer    users/9999_later; ")
            assert configured("migrate").out == done.out

            started = system.spawn("serve", "users", GATEHOUSE_USERS__PORT=str(port))
            await system.wait_for_replica("users", started, port)
            system.wait_until_serving()
        finally:
            connection.execute("UPDATE users.alembic_version SET version_num = %s", version)
    assert started.end() == 0


def test_role_without_privileges_cannot_migrate(configured: Cli, system: System) -> None:
    url = system.settings["GATEHOUSE_USERS__DATABASE_URL"]
    done = configured("migrate", GATEHOUSE_DATABASE__MIGRATE_URL=url)
    assert done.code == 3
    assert done.err.startswith("gatehouse: the role gatehouse_users lacks a privilege")
    assert done.err.count("\n") == 1
    wrong = url.replace("canary-database-users", "wrong-canary")
    done = configured("migrate", GATEHOUSE_DATABASE__MIGRATE_URL=wrong)
    assert done.code == 3
    assert "password authentication failed" in done.err
    assert "wrong-canary" not in done.err
    nowhere = re.sub(r"/\w+\?", "/nothing?", url)
    done = configured("migrate", "--check", GATEHOUSE_DATABASE__MIGRATE_URL=nowhere)
    assert 'database "nothing" does not exist' in done.err


def test_doctor_finds_nothing_wrong_with_the_running_system(configured: Cli, system: System) -> None:
    done = configured("doctor")
    rows = [re.split(r"  +", line, maxsplit=2) for line in done.lines[1:]]
    found = {check: detail for check, _, detail in rows}

    assert (done.code, done.err) == (0, ""), done.out
    assert {status for _, status, _ in rows} == {"ok"}, done.out
    for name, port in system.ports.items():
        service = SERVICES[name].descriptor.full_name
        assert found[f"{name}: port"] == f"127.0.0.1:{port}: served by {service}, SERVING"
    # <part admin>
    assert found["admin: UserService"] == f"localhost:{system.ports['users']}: SERVING"
    assert found["admin: client"] == "gatehouse-admin-service gets tokens"
    # </part admin>
    assert found["issuers[1]: clock"] == "agrees with this machine"
    assert "canary" not in done.out


def test_doctor_names_a_wrong_database_password(configured: Cli, system: System) -> None:
    url = system.settings["GATEHOUSE_USERS__DATABASE_URL"].replace("canary-database-users", "canary-wrong")
    done = configured("doctor", "users", "--format", "json", GATEHOUSE_USERS__DATABASE_URL=url)
    (failed,) = (row for row in json.loads(done.out) if row["status"] == "failed")

    assert (done.code, done.err) == (1, "")
    assert failed["check"] == "users: database"
    assert 'password authentication failed for user "gatehouse_users"' in failed["detail"]
    assert "GATEHOUSE_USERS__DATABASE_URL" in failed["detail"]
    assert "canary" not in done.out
