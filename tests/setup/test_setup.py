"""Files that the one-shot service `setup` of docker-compose.yml creates."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import ssl
import stat
from pathlib import Path
from string import Template

import pytest
from cryptography import x509

from compose.setup import GROUPS, SERVERS, Ports, client_variables, prepare
from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from tests.support.issuer import REALM_FILE

ROOT = Path(__file__).resolve().parents[2]
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
PORTS = Ports(keycloak="8080", jaeger="16686", prefix="500")


def run(root: Path, now: dt.datetime = NOW) -> None:
    prepare(root, REALM_FILE, PORTS, now=now, owned=False)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    run(tmp_path, NOW + dt.timedelta(days=1))
    assert content(tmp_path) == before


def test_lost_file_is_restored_with_the_secret_that_the_others_have(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    (tmp_path / "users/gatehouse_users__database_password").unlink()
    run(tmp_path)
    assert content(tmp_path) == before


def test_each_server_gets_its_own_secrets_only(tmp_path: Path) -> None:
    run(tmp_path)
    tls = {"ca.crt", "tls.crt", "tls.key"}
    passwords = {name: f"gatehouse_{name}__database_password" for name in SERVICES}
    expected = {
        "authority": {"ca.crt", "ca.key", "secrets.json"},
        "postgres": tls | {"password"},
        "keycloak": tls | {"environment"},
        "migrate": {"ca.crt", "gatehouse_database__migrate_password", *passwords.values()},
        "client": {"ca.crt", "profile.json", "inside.json"},
        "entry": {"ca.crt", "envoy.json", "tls.crt", "tls.key"},
        # <part console>
        "console": {"ca.crt", "profile.json"},
        # </part console>
    }
    for name in SERVICES:
        expected[name] = tls | {passwords[name]}
    # <part introspection>
    for name, spec in SERVICES.items():
        if spec.needs_issuer:
            expected[name] |= {"api_client_secret"}
    # </part introspection>
    # <part admin>
    expected["admin"] |= {f"gatehouse_admin__{s}__client_secret" for s in ("client", "role_sync")}
    # </part admin>
    assert {folder.name: {p.name for p in folder.iterdir()} for folder in tmp_path.iterdir()} == expected


def test_groups_differ_and_others_cannot_read_anything(tmp_path: Path) -> None:
    run(tmp_path)
    for path in tmp_path.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO, path
    # Every server reaches its own folder in the volume, and none lists the others.
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
    mounted = {name: group for name, group in GROUPS.items() if name != "authority"}
    assert len(set(mounted.values())) == len(mounted)


def test_no_client_has_the_secret_from_the_repository(tmp_path: Path) -> None:
    run(tmp_path)
    profile = json.loads((tmp_path / "client/profile.json").read_text())
    clients = profile["clients"]
    # A caller does not get the client that may manage users.
    assert set(clients) == set(client_variables(REALM_FILE)) - {"gatehouse-role-sync"}
    assert profile["passwords"]["alice"] == "alice"
    given = dict(line.split("=", 1) for line in (tmp_path / "keycloak/environment").read_text().splitlines())
    assert len(set(given.values())) == len(given)
    public = REALM_FILE.read_text()
    assert not any(secret in public for secret in given.values())
    # <part admin>
    role_sync = (tmp_path / "admin/gatehouse_admin__role_sync__client_secret").read_text()
    assert role_sync == given["GATEHOUSE_ROLE_SYNC_SECRET"]
    # </part admin>
    assert given["GATEHOUSE_API_SECRET"] == clients["gatehouse-api"]
    # <part introspection>
    assert (tmp_path / "users/api_client_secret").read_text() == clients["gatehouse-api"]
    # </part introspection>


def test_profiles_that_people_use_have_no_password_of_an_administrator(tmp_path: Path) -> None:
    run(tmp_path)
    lines = (tmp_path / "keycloak/environment").read_text().splitlines()
    (password,) = (
        line.partition("=")[2] for line in lines if line.startswith("KC_BOOTSTRAP_ADMIN_PASSWORD=")
    )
    profiles = [path for path in tmp_path.glob("*/*.json") if path.parent.name != "authority"]
    holders = {path.name for path in profiles if password in path.read_text()}
    assert holders == {"inside.json"}
    copied = re.findall(r"cp setup:/run/setup/client/(\S*)", (ROOT / "Makefile").read_text())
    assert copied == ["profile.json", "ca.crt"]


# <part console>
def test_commands_in_the_console_use_the_ports_of_the_host(tmp_path: Path) -> None:
    run(tmp_path)
    console = Profile.model_validate_json((tmp_path / "console/profile.json").read_bytes())
    host = Profile.model_validate_json((tmp_path / "client/profile.json").read_bytes())
    assert console.public_targets == host.targets
    assert console.targets != host.targets
    assert console.public_ca_file == Path("compose/local/ca.crt")  # as `make compose-profile` copies it


# </part console>
@pytest.mark.parametrize("server", SERVERS)
async def test_strict_client_trusts_each_server_by_its_name(server: str, tmp_path: Path) -> None:
    run(tmp_path, dt.datetime.now(dt.UTC))
    folder = tmp_path / server
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "client/ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=serving) as listening:
        port = listening.sockets[0].getsockname()[1]
        for name in (server, "localhost"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
            writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="elsewhere")


def test_certificates_are_renewed_before_they_expire_and_the_authority_stays(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    later = NOW + dt.timedelta(days=380)
    run(tmp_path, later)
    after = content(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{server}/tls.{end}" for server in SERVERS for end in ("crt", "key")}
    certificate = x509.load_pem_x509_certificate(after["users/tls.crt"])
    assert certificate.not_valid_after_utc > later + dt.timedelta(days=300)


def test_new_authority_replaces_all_certificates(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    run(tmp_path, NOW + dt.timedelta(days=3640))
    after = content(tmp_path)
    for name in before:
        if name.endswith((".crt", ".key")):
            assert after[name] != before[name], name
    assert after["users/ca.crt"] == after["authority/ca.crt"]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_file_has_a_block_for_each_service_with_its_group_and_port(name: str) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    port = SERVICES[name].default_port
    block = text.partition(f"\n  {name}:\n")[2].partition("\n\n")[0]
    assert f'user: "10001:{port}"' in block
    assert f"working_dir: /run/gatehouse/{name}\n" in block
    # A port can be published by one container only, and a service may have several.
    assert "ports:" not in block
    entry = text.partition("\n  entry:\n")[2].partition("\n\n")[0]
    assert f'- "127.0.0.1:${{GRPC_PORT_PREFIX}}{port % 100:02d}:{port}"\n' in entry
    assert f"GATEHOUSE_{name.upper()}__DATABASE_URL: postgresql://gatehouse_{name}@postgres:5432/" in block
    assert PORTS.service(port) == str(port)


def test_template_of_a_new_service_is_the_block_of_an_existing_one() -> None:
    template = Template((ROOT / "tools/new_service/compose.tmpl").read_text())
    block = template.substitute(name="users", NAME="USERS", port=50051)
    assert f"\n{block}" in (ROOT / "docker-compose.yml").read_text()
