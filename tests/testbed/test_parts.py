"""Smaller parts of the demo: certificates, files, figures, ports, admin calls, processes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
import stat
import time
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse_testbed.certificates import make_certificates
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.files import read_users, users_file
from gatehouse_testbed.issuer_admin import KEEP_SECONDS, IssuerAdmin
from gatehouse_testbed.processes import Processes
from gatehouse_testbed.stack import Ports
from gatehouse_testbed.tour.metrics import Figures, fetch_figures, read_figures
from gatehouse_testbed.tour.steps.tokens import COOLDOWN_SECONDS, rest_seconds
from tests.support.issuer import ADMIN_PASSWORD, LiveIssuer


async def test_a_certificate_is_trusted_for_its_names_by_who_trusts_its_authority(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(made.certificate_file, made.private_key_file)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=made.ca_file)
    async with server:
        for name in ("localhost", "127.0.0.1"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
            writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="other.test")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=ssl.create_default_context(), server_hostname="localhost"
            )
    assert stat.S_IMODE(made.private_key_file.stat().st_mode) == 0o600


def test_the_repository_has_a_thousand_users() -> None:
    rows = read_users(users_file())
    assert (len(rows), rows[0].number, rows[-1].number) == (1000, 1, 1000)
    assert len({row.email for row in rows}) == 1000


def test_a_file_that_holds_no_users_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("email,name\na@x.test,A\n")
    with pytest.raises(DemoError, match="is no CSV file with email and display_name"):
        read_users(tmp_path / "x.csv")
    with pytest.raises(DemoError, match="cannot be read"):
        read_users(tmp_path / "missing.csv")


METRICS = """
# TYPE rpc_server_call_duration_seconds histogram
rpc_server_call_duration_seconds_bucket{rpc_response_status_code="OK",rpc_method="a/B",le="+Inf"} 3
rpc_server_call_duration_seconds_count{rpc_response_status_code="OK",rpc_method="a/B"} 3
rpc_server_call_duration_seconds_sum{rpc_response_status_code="OK",rpc_method="a/B"} 0.1
rpc_server_call_duration_seconds_count{rpc_response_status_code="OK",rpc_method="a/C"} 2
# TYPE gatehouse_token_verifications_total counter
gatehouse_token_verifications_total{source="cache"} 7
# TYPE gatehouse_authorization_denials_total counter
gatehouse_authorization_denials_total{reason="token_missing",rpc_method="a/B"} 2
# TYPE other_total counter
other_total 9
"""


def test_figures_are_summed_over_rpcs_and_counted_from_a_moment_on() -> None:
    now = read_figures(METRICS)
    assert (now.calls["OK"], now.verifications["cache"], now.denials["token_missing"]) == (5, 7, 2)
    later = read_figures(METRICS.replace(" 7\n", " 9\n"))
    assert later.since(now).verifications == {"cache": 2}
    assert not later.since(now).calls
    assert now.since(Figures()) == now


async def test_figures_that_cannot_be_had_are_told_of() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(DemoError, match="gives no figures of users"):
            await fetch_figures(http, {"users": f"http://127.0.0.1:{Ports.free().traces}/metrics"})


def test_free_ports_are_all_different() -> None:
    ports = Ports.free()
    ports.check()
    assert len({ports.issuer, ports.traces, *ports.services.values()}) == 2 + len(SERVICES)


def test_a_taken_port_is_named_with_who_wants_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=f"port {port}, for admin, is taken"):
            dataclasses.replace(Ports.free(), services={"admin": port}).check()


def profile_of(issuer: LiveIssuer, password: str = ADMIN_PASSWORD) -> Profile:
    return Profile(issuer=issuer.issuer, issuer_admin_password=SecretStr(password))


async def test_a_rotation_is_known_to_the_next_tour(issuer: LiveIssuer) -> None:
    admin = IssuerAdmin(issuer.http, profile_of(issuer))
    before = await issuer.service_token()
    assert await admin.seconds_since_rotation() is None
    await admin.rotate()
    since = await admin.seconds_since_rotation()
    assert since is not None
    assert 0 <= since < 60
    after = await issuer.service_token()
    assert before.split(".")[0] != after.split(".")[0]
    assert (await issuer.introspect(before))["active"] is True


async def test_a_rotation_removes_the_keys_of_tours_long_ago(issuer: LiveIssuer) -> None:
    admin = IssuerAdmin(issuer.http, profile_of(issuer))
    await admin.rotate()
    since = await admin.seconds_since_rotation() or 0.0
    await issuer.rotate(priority=int(time.time()) - KEEP_SECONDS - 60)
    keys = f"{issuer.issuer}/protocol/openid-connect/certs"
    count = len((await issuer.http.get(keys)).json()["keys"])
    await admin.rotate()
    assert len((await issuer.http.get(keys)).json()["keys"]) == count
    assert (await admin.seconds_since_rotation() or 0.0) <= since + 60


async def test_a_wrong_administrator_is_told_of(issuer: LiveIssuer) -> None:
    with pytest.raises(DemoError, match="refuses its admin calls"):
        await IssuerAdmin(issuer.http, profile_of(issuer, "wrong")).rotate()


def test_a_tour_rests_only_after_the_rotation_of_another() -> None:
    assert rest_seconds(None) == 0
    assert rest_seconds(COOLDOWN_SECONDS + 1) == 0
    assert rest_seconds(10.0) == COOLDOWN_SECONDS - 10


async def test_a_process_that_ends_at_once_is_told_of_in_its_own_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    await processes.start("users", ["serve", "mice"], {})
    with pytest.raises(DemoError, match="users ended at once: mice: there is no such service"):
        await processes.ready("users")
    assert "users ended" in await processes.first_end()
    await processes.aclose()


async def test_settings_of_this_shell_do_not_reach_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEHOUSE_USERS__PORT", "nonsense")
    processes = Processes(tmp_path)
    await processes.start("users", ["serve", "users"], {})
    with pytest.raises(DemoError, match="GATEHOUSE_ISSUERS: names no issuer"):
        await processes.ready("users")
    assert "GATEHOUSE_USERS__PORT" in os.environ
