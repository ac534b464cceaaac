"""Create what the stack needs before it starts: an authority, a certificate for each server, and secrets.

This is the one-shot service `setup` of docker-compose.yml. It keeps what exists already, so it may run at
every start. Each server has a folder with its own secrets that only its group can read.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gatehouse.app.services import SERVICES
from gatehouse_testbed.certificates import LOOPBACK, Authority, KeyPair, valid_until
from gatehouse_testbed.issuer import load_realm

AUTHORITY_LIFETIME = dt.timedelta(days=3650)
CERTIFICATE_LIFETIME = dt.timedelta(days=397)
RENEW_BEFORE = dt.timedelta(days=30)
SERVERS = ("postgres", "keycloak", *SERVICES, "entry")
# The group of each container, as in docker-compose.yml. That of a service is its port.
GROUPS = {"authority": 0, "postgres": 999, "keycloak": 0, "migrate": 10001, "client": 10002} | {
    name: spec.default_port for name, spec in SERVICES.items()
}
GROUPS["entry"] = 10003
# <part console>
GROUPS["console"] = 10004
# </part console>
# Client of a section `<service>.<section>` of the settings.
CLIENTS: dict[tuple[str, str], str] = {}
# <part admin>
CLIENTS |= {("admin", "client"): "gatehouse-admin-service", ("admin", "role_sync"): "gatehouse-role-sync"}
# </part admin>
_PLACEHOLDER = re.compile(r"\$\{(\w+):[^}]*\}")


@dataclass(frozen=True, slots=True)
class Ports:
    """Published ports, on loopback of the host; `prefix` is that of the ports of the services."""

    keycloak: str
    jaeger: str
    prefix: str

    @property
    def issuer(self) -> str:
        """The `iss` of every token, wherever it was requested."""
        return f"http://localhost:{self.keycloak}/realms/gatehouse"

    def service(self, port: int) -> str:
        """Return the published port of a service that listens on `port`."""
        return f"{self.prefix}{port % 100:02d}"


class Folder:
    """The folder of a server: its files belong to root and can be read by the group of the server.

    Args:
        root: Parent of all folders.
        name: Name of the server.
        owned: Whether to set the group, which only root can do.
    """

    def __init__(self, root: Path, name: str, *, owned: bool) -> None:
        self._path = root / name
        self._group = GROUPS[name] if owned else -1
        self._path.mkdir(mode=0o750, exist_ok=True)
        os.chown(self._path, -1, self._group)
        self._path.chmod(0o750)

    def read(self, name: str) -> bytes:
        """Return the content of a file, b"" if it does not exist."""
        path = self._path / name
        return path.read_bytes() if path.is_file() else b""

    def write(self, name: str, content: bytes | str) -> None:
        """Replace a file atomically, if its content differs."""
        raw = content.encode() if isinstance(content, str) else content
        if self.read(name) == raw:
            return
        part = self._path / f".{name}.part"
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, -1, self._group)
            file.write(raw)
        part.replace(self._path / name)


def load_authority(folder: Folder, now: dt.datetime) -> Authority:
    """Return the authority of the stack; create it if it is missing or expires soon."""
    if _expires_soon(folder.read("ca.crt"), now):
        pair = Authority.create(now, lifetime=AUTHORITY_LIFETIME).pair
        folder.write("ca.key", pair.private_key)
        folder.write("ca.crt", pair.certificate)
    return Authority(KeyPair(folder.read("ca.crt"), folder.read("ca.key")))


def certify(authority: Authority, folder: Folder, name: str, now: dt.datetime) -> None:
    """Give a server a certificate, unless it has one of this authority that does not expire soon."""
    old = folder.read("tls.crt")
    if not _expires_soon(old, now) and authority.has_issued(old) and folder.read("tls.key"):
        return
    pair = authority.issue([name, *LOOPBACK], now, lifetime=CERTIFICATE_LIFETIME)
    folder.write("tls.key", pair.private_key)
    folder.write("tls.crt", pair.certificate)


def _expires_soon(certificate: bytes, now: dt.datetime) -> bool:
    return not certificate or valid_until(certificate) - now <= RENEW_BEFORE


def client_variables(realm: Path) -> dict[str, str]:
    """Return, by client, the variable that holds its secret in the realm file: `${NAME:demo value}`."""
    clients = json.loads(realm.read_text(encoding="utf-8"))["clients"]
    found = {c["clientId"]: _PLACEHOLDER.fullmatch(c.get("secret", "")) for c in clients}
    return {client: match[1] for client, match in found.items() if match}


def _load_secrets(folder: Folder, names: list[str]) -> dict[str, str]:
    """Return a secret for each name; create those that are missing."""
    found: dict[str, str] = json.loads(folder.read("secrets.json") or b"{}")
    found |= {name: secrets.token_urlsafe(24) for name in names if name not in found}
    folder.write("secrets.json", json.dumps(found, indent=2) + "\n")
    return found


def prepare(root: Path, realm: Path, ports: Ports, *, now: dt.datetime, owned: bool) -> None:
    """Create what is missing below `root`.

    Args:
        root: Gets one folder for each name in GROUPS.
        realm: The realm file. Each client whose secret is a variable gets a new secret.
        ports: Published ports.
        now: Current time.
        owned: Whether to set the groups of the folders, which only root can do.
    """
    # A container that mounts `root` can open its own folder but not list the others.
    root.chmod(0o711)
    folders = {name: Folder(root, name, owned=owned) for name in GROUPS}
    authority = load_authority(folders["authority"], now)
    for name in SERVERS:
        certify(authority, folders[name], name, now)
    for name, folder in folders.items():
        if name != "authority":
            folder.write("ca.crt", authority.pair.certificate)

    variables = client_variables(realm)
    names = [f"database/{role}" for role in (*SERVICES, "migrate")] + ["keycloak/admin"]
    values = _load_secrets(folders["authority"], names + [f"client/{client}" for client in variables])

    folders["postgres"].write("password", values["database/migrate"])
    folders["migrate"].write("gatehouse_database__migrate_password", values["database/migrate"])
    for name in SERVICES:
        for owner in ("migrate", name):
            folders[owner].write(f"gatehouse_{name}__database_password", values[f"database/{name}"])
    # <part introspection>
    for name, spec in SERVICES.items():
        if spec.needs_issuer:
            folders[name].write("api_client_secret", values["client/gatehouse-api"])
    # </part introspection>
    for (name, section), client in CLIENTS.items():
        folders[name].write(f"gatehouse_{name}__{section}__client_secret", values[f"client/{client}"])

    environment = {"KC_BOOTSTRAP_ADMIN_PASSWORD": values["keycloak/admin"]}
    environment |= {variable: values[f"client/{client}"] for client, variable in variables.items()}
    folders["keycloak"].write("environment", "".join(f"{k}={v}\n" for k, v in environment.items()))

    clients = {client: values[f"client/{client}"] for client in variables}
    # <part admin>
    del clients["gatehouse-role-sync"]  # which may manage users; no caller needs it
    # </part admin>
    users = load_realm(realm, {}).users.values()
    common: dict[str, object] = {
        "issuer": ports.issuer,
        "ca_file": "ca.crt",
        "clients": clients,
        "passwords": {user.username: user.password for user in users if user.password},
    }
    outside, inside = ({**common, **addresses} for addresses in profiles(ports))
    # Only the tour changes the issuer.
    tour = {**inside, "issuer_admin_password": values["keycloak/admin"]}
    folders["client"].write("profile.json", json.dumps(outside, indent=2) + "\n")
    folders["client"].write("inside.json", json.dumps(tour, indent=2) + "\n")
    # <part console>
    # Its users paste the commands that it shows into a shell of the host, in the checkout.
    shown: dict[str, object] = {
        "public_targets": outside["targets"],
        "public_ca_file": "compose/local/ca.crt",
    }
    shown["prometheus_url"] = "http://prometheus:9090"
    folders["console"].write("profile.json", json.dumps({**inside, **shown}, indent=2) + "\n")
    # </part console>
    folders["entry"].write("envoy.json", json.dumps(proxy_settings(), indent=2) + "\n")


def profiles(ports: Ports) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Return the addresses for a caller on the host, and those for a caller in a container."""
    keycloak = "https://keycloak:8443/realms/gatehouse"
    services = {name: spec.default_port for name, spec in SERVICES.items()}
    outside = {
        "targets": {name: f"localhost:{ports.service(port)}" for name, port in services.items()},
        "traces_url": f"http://localhost:{ports.jaeger}",
    }
    inside = {
        "discovery_url": f"{keycloak}/.well-known/openid-configuration",
        "revocation_endpoint": f"{keycloak}/protocol/openid-connect/revoke",
        "targets": {name: f"{name}:{port}" for name, port in services.items()},
        "traces_url": "http://jaeger:16686",
        "metrics": {name: f"http://{name}:9464/metrics" for name in services},
    }
    return outside, inside


def proxy_settings() -> Mapping[str, object]:
    """Return the configuration of Envoy: the port of each service, forwarded to its containers in turn."""
    services = {name: spec.default_port for name, spec in SERVICES.items()}
    proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

    def address(host: str, port: int) -> Mapping[str, object]:
        return {"address": {"socket_address": {"address": host, "port_value": port}}}

    def listener(name: str, port: int) -> Mapping[str, object]:
        forward = {"@type": proxy, "stat_prefix": name, "cluster": name, "idle_timeout": "0s"}
        filters = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": forward}]
        return {"name": name, **address("0.0.0.0", port), "filter_chains": [{"filters": filters}]}  # noqa: S104 - published on loopback

    def cluster(name: str, port: int) -> Mapping[str, object]:
        endpoints = [{"lb_endpoints": [{"endpoint": address(name, port)}]}]
        return {
            "name": name,
            # All addresses of the name, one for each container.
            "type": "STRICT_DNS",
            "dns_refresh_rate": "1s",
            "connect_timeout": "2s",
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        }

    return {
        "admin": address("127.0.0.1", 9901),
        "static_resources": {
            "listeners": [listener(name, port) for name, port in services.items()],
            "clusters": [cluster(name, port) for name, port in services.items()],
        },
    }


def main() -> None:
    """Parse the arguments and create what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--realm", type=Path, required=True)
    parser.add_argument("--keycloak-port", required=True)
    parser.add_argument("--jaeger-port", required=True)
    parser.add_argument("--grpc-port-prefix", required=True)
    given = parser.parse_args()
    ports = Ports(given.keycloak_port, given.jaeger_port, given.grpc_port_prefix)
    now = dt.datetime.now(dt.UTC)
    try:
        prepare(given.root, given.realm, ports, now=now, owned=os.geteuid() == 0)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"setup: {error}; `docker compose down --volumes` starts over")
    sys.stdout.write(f"setup: certificates and secrets are in {given.root}\n")


if __name__ == "__main__":
    main()
