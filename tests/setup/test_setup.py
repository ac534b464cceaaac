"""What the one-shot service `setup` of docker-compose.yml makes before the others start."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from compose.setup import SERVERS, Ports, client_variables, prepare
from tests.support.issuer import REALM_FILE

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
PORTS = Ports("8080", "1", "2", "3", "4")


def run(root: Path, now: dt.datetime = NOW) -> None:
    prepare(root, Path(REALM_FILE), PORTS, now=now, owned=False)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    run(tmp_path, NOW + dt.timedelta(days=1))
    assert content(tmp_path) == before


def test_a_lost_file_comes_back_with_the_secret_that_the_others_have(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    (tmp_path / "users/gatehouse_users__database_password").unlink()
    run(tmp_path)
    assert content(tmp_path) == before


def test_each_server_finds_its_own_secrets_and_nobody_elses(tmp_path: Path) -> None:
    run(tmp_path)
    names = {folder.name: {p.name for p in folder.iterdir()} for folder in tmp_path.iterdir()}
    tls = {"ca.crt", "tls.crt", "tls.key"}
    assert names == {
        "authority": {"ca.crt", "ca.key", "secrets.json"},
        "postgres": tls | {"password"},
        "keycloak": tls | {"environment"},
        "migrate": {"ca.crt"}
        | {f"gatehouse_database__{r}_password" for r in ("users", "admin", "public", "migrate")},
        "users": tls | {"gatehouse_users__database_password", "api_client_secret"},
        "admin": tls
        | {
            "gatehouse_admin__database_password",
            "api_client_secret",
            "gatehouse_admin__client__client_secret",
        }
        | {"gatehouse_admin__role_sync__client_secret"},
        "public": tls | {"gatehouse_public__database_password"},
        "client": {"ca.crt", "profile.json", "inside.json"},
    }


def test_nothing_can_be_read_by_everybody(tmp_path: Path) -> None:
    run(tmp_path)
    for path in tmp_path.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO, path


def test_no_client_has_the_secret_that_stands_in_the_repository(tmp_path: Path) -> None:
    run(tmp_path)
    clients = json.loads((tmp_path / "client/profile.json").read_text())["clients"]
    # Who calls the services does not get the client that may manage users.
    assert set(clients) == set(client_variables(Path(REALM_FILE))) - {"gatehouse-role-sync"}
    given = dict(line.split("=", 1) for line in (tmp_path / "keycloak/environment").read_text().splitlines())
    assert len(set(given.values())) == len(given)
    public = Path(REALM_FILE).read_text()
    assert not any(secret in public for secret in given.values())
    role_sync = (tmp_path / "admin/gatehouse_admin__role_sync__client_secret").read_text()
    assert role_sync == given["GATEHOUSE_ROLE_SYNC_SECRET"]
    assert given["GATEHOUSE_API_SECRET"] == clients["gatehouse-api"]
    assert (tmp_path / "users/api_client_secret").read_text() == clients["gatehouse-api"]


@pytest.mark.parametrize("server", SERVERS)
async def test_a_strict_client_trusts_each_server_by_its_name(server: str, tmp_path: Path) -> None:
    run(tmp_path, dt.datetime.now(dt.UTC))
    folder = tmp_path / server
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    trusting = ssl.create_default_context(cafile=str(tmp_path / "client/ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=serving) as listening:
        port = listening.sockets[0].getsockname()[1]
        for name in (server, "localhost"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
            writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="elsewhere")


def test_certificates_are_renewed_before_they_end_and_the_authority_stays(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    later = NOW + dt.timedelta(days=380)
    run(tmp_path, later)
    after = content(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{server}/tls.{end}" for server in SERVERS for end in ("crt", "key")}
    certificate = x509.load_pem_x509_certificate(after["users/tls.crt"])
    assert certificate.not_valid_after_utc > later + dt.timedelta(days=300)


def test_a_new_authority_certifies_everybody_anew(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    run(tmp_path, NOW + dt.timedelta(days=3640))
    after = content(tmp_path)
    for name in before:
        if name.endswith((".crt", ".key")):
            assert after[name] != before[name], name
    assert after["users/ca.crt"] == after["authority/ca.crt"]
