"""The command line against the running system."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.support.cli import Cli
from tests.support.system import System, free_port


@pytest.fixture
def at_home(cli: Cli, system: System) -> Cli:
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


def test_a_unary_call_prints_one_answer_as_json(at_home: Cli) -> None:
    user_id = create(at_home)
    done = at_home("call", "users", "GetUser", "--as", "bob", "--data", json.dumps({"user_id": user_id}))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["display_name"] == "Carol"


def test_a_call_without_token_says_what_to_show(at_home: Cli) -> None:
    done = at_home("call", "users", "CountUsers")
    assert done.code == 1
    assert done.err.splitlines() == [
        "gatehouse: UNAUTHENTICATED: missing access token (TOKEN_MISSING)",
        'gatehouse: www-authenticate: Bearer realm="gatehouse", scope="read:users"',
    ]


def test_a_caller_without_rights_is_refused_by_the_service_and_not_by_the_issuer(at_home: Cli) -> None:
    for who in (("--as", "carol"), ("--client", "gatehouse-admin-service")):
        done = at_home("call", "admin", "GetStats", *who)
        assert done.code == 1
        assert done.err.startswith("gatehouse: PERMISSION_DENIED")


def test_a_request_that_is_not_valid_is_told_by_field(at_home: Cli) -> None:
    done = at_home("call", "users", "GetUser", "--as", "bob")
    assert done.code == 1
    assert done.err.splitlines()[1].startswith("gatehouse: user_id: ")


def test_a_server_stream_prints_its_answers_and_ends_at_the_limit(at_home: Cli) -> None:
    done = at_home("call", "users", "WatchUsers", "--as", "bob", "--limit", "1")
    assert (done.code, done.err, len(done.lines)) == (0, "", 1)
    assert "resume_token" in json.loads(done.out)


def test_a_stream_is_sent_from_a_list_or_line_by_line_from_input(at_home: Cli) -> None:
    ids = [create(at_home), str(uuid.uuid4())]
    requests = [{"user_id": i} for i in ids]
    as_list = at_home("call", "users", "LookupUsers", "--as", "bob", "--data", json.dumps(requests))
    lines = "\n".join(map(json.dumps, requests))
    as_lines = at_home("call", "users", "LookupUsers", "--as", "bob", "--data", "-", given=f"{lines}\n\n")
    assert (as_list.code, as_list.err) == (as_lines.code, as_lines.err) == (0, "")
    assert as_list.out == as_lines.out
    assert [json.loads(line)["user_id"] for line in as_lines.lines] == ids
    rows = [{"row_number": 1, "email": "nonsense", "display_name": "x"}]
    done = at_home(
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


def test_a_line_that_is_no_request_is_named_and_ends_the_call(at_home: Cli) -> None:
    given = json.dumps({"user_id": str(uuid.uuid4())}) + '\n{"user": 1}\n'
    done = at_home("call", "users", "LookupUsers", "--as", "bob", "--data", "-", given=given)
    assert done.code == 2
    assert done.err.startswith("gatehouse: line 2 of standard input: is not a LookupUsersRequest")
    assert done.err.count("\n") == 1


def test_a_request_of_a_unary_call_can_come_from_input(at_home: Cli) -> None:
    done = at_home("call", "users", "ListUsers", "--as", "bob", "--data", "-", given='{"page_size": 1}')
    assert done.code == 0
    assert len(json.loads(done.out)["users"]) == 1


def test_a_token_is_obtained_decoded_introspected_and_revoked(at_home: Cli) -> None:
    token = at_home("token", "obtain", "--as", "alice", "--scope", "read:users").out
    decoded = json.loads(at_home("token", "decode", "-", given=token).out)
    assert decoded["claims"]["scope"] == "read:users"
    assert decoded["header"]["alg"] == "ES256"
    assert json.loads(at_home("token", "introspect", "-", given=token).out)["username"] == "alice"
    assert at_home("call", "users", "CountUsers", "--token", "-", given=token).code == 0
    assert at_home("token", "revoke", "-", given=token).out == "revoked\n"
    done = at_home("token", "introspect", "-", given=token)
    assert (done.code, json.loads(done.out)) == (1, {"active": False})


def test_a_token_of_a_client_is_revoked_by_that_client_only(at_home: Cli) -> None:
    token = at_home("token", "obtain", "--client", "gatehouse-worker").out.strip()
    assert at_home("token", "revoke", token).code == 1
    assert at_home("token", "revoke", token, "--client", "gatehouse-worker").code == 0


def test_what_the_issuer_refuses_is_one_line(at_home: Cli, system: System) -> None:
    unknown = at_home("token", "obtain", "--client", "gatehouse-worker", "--scope", "admin")
    assert unknown.code == 1
    assert unknown.err == (
        "gatehouse: the issuer refused (invalid_scope); check the user, the client and the scopes\n"
    )
    nobody = at_home("token", "obtain", "--as", "dave")
    assert nobody.code == 2
    assert nobody.err.startswith("gatehouse: dave: its password is not in the profile")
    stranger = at_home("token", "obtain", "--client", "stranger")
    assert stranger.code == 2
    assert stranger.err.startswith("gatehouse: stranger: its secret is not in the profile")


def test_healthcheck_tells_serving_from_unreachable(at_home: Cli, system: System) -> None:
    assert at_home("healthcheck", "users").out == "users  SERVING\n"
    assert at_home("healthcheck", "admin", "--liveness").code == 0
    away = json.loads(system.profile.read_text())
    away["targets"]["users"] = f"localhost:{free_port()}"
    profile = system.folder / "away.json"
    profile.write_text(json.dumps(away))
    done = at_home("healthcheck", "users", "--timeout", "1", GATEHOUSE_PROFILE=str(profile))
    assert (done.code, done.out) == (3, "users  UNREACHABLE\n")
    done = at_home("call", "users", "CountUsers", "--token", "x", "--timeout", "5")
    assert done.code == 3
    assert done.err.startswith("gatehouse: UNAVAILABLE")
    assert away["targets"]["users"] in done.err
    assert done.err.count("\n") == 1


def test_a_service_that_is_not_trusted_is_one_line(at_home: Cli, system: System) -> None:
    profile = system.folder / "distrust.json"
    profile.write_text(json.dumps(json.loads(system.profile.read_text()) | {"ca_file": None}))
    done = at_home("call", "public", "GetPublicInfo", GATEHOUSE_PROFILE=str(profile))
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_second_start_on_the_same_port_is_one_line(at_home: Cli, system: System) -> None:
    port = system.ports["public"]
    for more in ((), ("--workers", "2")):
        done = at_home("serve", "public", *more)
        assert done.code == 3
        assert done.err == (f"gatehouse: 127.0.0.1:{port}: cannot listen; another process may use the port\n")
    done = at_home("issuer", "--port", str(system.issuer_ports["issuer"]))
    assert done.code == 3
    assert "cannot listen" in done.err


def test_migrations_are_checked_and_run_on_the_database_of_the_settings(at_home: Cli) -> None:
    assert at_home("migrate", "--check").out == "nothing is missing\n"
    assert at_home("migrate").out == "nothing was missing\n"


def test_a_role_without_rights_cannot_migrate_and_is_told_so(at_home: Cli, system: System) -> None:
    url = system.settings["GATEHOUSE_USERS__DATABASE_URL"]
    done = at_home("migrate", GATEHOUSE_DATABASE__MIGRATE_URL=url)
    assert done.code == 3
    assert done.err.startswith("gatehouse: the role gatehouse_users may not do this")
    assert done.err.count("\n") == 1
    wrong = url.replace("canary-database-users", "wrong-canary")
    done = at_home("migrate", GATEHOUSE_DATABASE__MIGRATE_URL=wrong)
    assert done.code == 3
    assert "the database refused the connection: password authentication failed" in done.err
    assert "wrong-canary" not in done.err
    nowhere = url.replace("/gatehouse?", "/nothing?")
    done = at_home("migrate", "--check", GATEHOUSE_DATABASE__MIGRATE_URL=nowhere)
    assert 'database "nothing" does not exist' in done.err
