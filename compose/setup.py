"""Makes what the stack needs before it starts: an authority, a certificate for each server, and secrets.

It is the one-shot service `setup` of docker-compose.yml. What is there already stays, so every start may run
it. Each server has a folder (a volume) of its own, in which it finds its own secrets and nobody else's.
"""

from __future__ import annotations

import argparse
import datetime as dt
import ipaddress
import json
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = dt.timedelta(days=3650)
CERTIFICATE_LIFE = dt.timedelta(days=397)
RENEW_BEFORE = dt.timedelta(days=30)
# What a folder's files may be read by: the group that its server runs with.
GROUPS = {"authority": 0, "postgres": 999, "keycloak": 0}
GATEHOUSE_GROUP = 10001
DATABASE_ROLES = ("users", "admin", "public", "migrate")
ROLE_SYNC = "gatehouse-role-sync"
SERVERS = ("postgres", "keycloak", "users", "admin", "public")
_PLACEHOLDER = re.compile(r"\$\{(\w+):[^}]*\}")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the host reaches the stack, on loopback."""

    keycloak: str
    users: str
    admin: str
    public: str
    jaeger: str

    @property
    def issuer(self) -> str:
        """What `iss` is of every token, wherever it was fetched."""
        return f"http://localhost:{self.keycloak}/realms/gatehouse"


class Folder:
    """A folder of one server; its files belong to root and are read by the server's group.

    Args:
        root: Where all folders are.
        name: Of the server.
        owned: Whether files are given to the group, which only root can do.
    """

    def __init__(self, root: Path, name: str, *, owned: bool) -> None:
        self._path = root / name
        self._group = GROUPS.get(name, GATEHOUSE_GROUP) if owned else -1
        self._path.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.chown(self._path, -1, self._group)
        self._path.chmod(0o750)

    def read(self, name: str) -> bytes:
        """Returns a file, b"" when there is none."""
        path = self._path / name
        return path.read_bytes() if path.is_file() else b""

    def write(self, name: str, content: bytes | str) -> None:
        """Writes a file, whole or not at all, unless it is what it should be."""
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


class Authority:
    """The certificate authority of this stack; its key never leaves its folder.

    Args:
        folder: Where it is kept.
        now: Time of this run.
    """

    def __init__(self, folder: Folder, now: dt.datetime) -> None:
        self._now = now
        if not _lasts(folder.read("ca.crt"), now):
            key = ec.generate_private_key(ec.SECP256R1())
            folder.write("ca.key", _pem(key))
            folder.write("ca.crt", self._sign_itself(key).public_bytes(serialization.Encoding.PEM))
        self.pem = folder.read("ca.crt")
        self._certificate = x509.load_pem_x509_certificate(self.pem)
        key_read = serialization.load_pem_private_key(folder.read("ca.key"), None)
        assert isinstance(key_read, ec.EllipticCurvePrivateKey)  # noqa: S101 - it was made above
        self._key = key_read

    def certify(self, folder: Folder, name: str) -> None:
        """Gives a server a key and a certificate, unless it has one of this authority that lasts."""
        old = folder.read("tls.crt")
        if _lasts(old, self._now) and self._signed(old) and folder.read("tls.key"):
            return
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.DNSName("localhost")]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
        certificate = (
            self._builder(name, key, CERTIFICATE_LIFE)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        folder.write("tls.key", _pem(key))
        folder.write("tls.crt", certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, pem: bytes) -> bool:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return found == x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()).digest

    def _sign_itself(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        self._key = key
        return (
            self._builder("Gatehouse demo authority", key, AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, life: dt.timedelta
    ) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = getattr(self, "_certificate", None)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Clocks differ a little.
            .not_valid_before(self._now - dt.timedelta(minutes=5))
            .not_valid_after(self._now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _lasts(pem: bytes, now: dt.datetime) -> bool:
    return bool(pem) and x509.load_pem_x509_certificate(pem).not_valid_after_utc - now > RENEW_BEFORE


def client_variables(realm: Path) -> dict[str, str]:
    """Returns, by client, the variable in which Keycloak looks for its secret: `${NAME:demo value}`."""
    clients = json.loads(realm.read_text(encoding="utf-8"))["clients"]
    found = {c["clientId"]: _PLACEHOLDER.fullmatch(c.get("secret", "")) for c in clients}
    return {client: match[1] for client, match in found.items() if match}


def demo_passwords(realm: Path) -> dict[str, str]:
    """Returns the passwords of the demo realm's users, which stand in the repository."""
    users = json.loads(realm.read_text(encoding="utf-8"))["users"]
    return {u["username"]: c["value"] for u in users for c in u.get("credentials", ()) if "value" in c}


def _kept_secrets(folder: Folder, names: list[str]) -> dict[str, str]:
    """Returns a secret for each name; those that were made once stay."""
    kept: dict[str, str] = json.loads(folder.read("secrets.json") or b"{}")
    kept |= {name: secrets.token_urlsafe(24) for name in names if name not in kept}
    folder.write("secrets.json", json.dumps(kept, indent=2) + "\n")
    return kept


def prepare(root: Path, realm: Path, ports: Ports, *, now: dt.datetime, owned: bool) -> None:
    """Makes what is missing below `root`.

    Args:
        root: Holds a folder for each server, `authority` and `client`.
        realm: The realm file; each client with a variable for its secret gets a secret of its own.
        ports: Where the host reaches the stack.
        now: Time of this run.
        owned: Whether each folder is given to the group of its server, which only root can do.
    """
    names = ("authority", *SERVERS, "migrate", "client")
    folders = {name: Folder(root, name, owned=owned) for name in names}
    authority = Authority(folders["authority"], now)
    for name in SERVERS:
        authority.certify(folders[name], name)
    for name, folder in folders.items():
        if name != "authority":
            folder.write("ca.crt", authority.pem)

    variables = client_variables(realm)
    wanted = [*(f"database/{role}" for role in DATABASE_ROLES), "keycloak/admin"]
    made = _kept_secrets(folders["authority"], wanted + [f"client/{client}" for client in variables])

    folders["postgres"].write("password", made["database/migrate"])
    for role in DATABASE_ROLES:
        file = (
            "gatehouse_database__migrate_password"
            if role == "migrate"
            else f"gatehouse_{role}__database_password"
        )
        folders["migrate"].write(file, made[f"database/{role}"])
        if role != "migrate":
            folders[role].write(file, made[f"database/{role}"])
    for service in ("users", "admin"):
        folders[service].write("api_client_secret", made["client/gatehouse-api"])
    folders["admin"].write("gatehouse_admin__client__client_secret", made["client/gatehouse-admin-service"])
    folders["admin"].write("gatehouse_admin__role_sync__client_secret", made[f"client/{ROLE_SYNC}"])

    environment = {"KC_BOOTSTRAP_ADMIN_PASSWORD": made["keycloak/admin"]}
    environment |= {variable: made[f"client/{client}"] for client, variable in variables.items()}
    folders["keycloak"].write("environment", "".join(f"{k}={v}\n" for k, v in environment.items()))

    # Who calls the services has no business with the client that may manage users.
    clients = {client: made[f"client/{client}"] for client in variables if client != ROLE_SYNC}
    words: dict[str, object] = {
        "clients": clients,
        "passwords": demo_passwords(realm),
        "issuer_admin_password": made["keycloak/admin"],
    }
    _write_profiles(folders["client"], ports, words)


def _write_profiles(folder: Folder, ports: Ports, words: dict[str, object]) -> None:
    """Writes what the command line needs: `profile.json` on the host, `inside.json` in a container.

    Args:
        folder: Where.
        ports: Where the host reaches the stack.
        words: Secrets, as a profile has them.
    """
    common = {"issuer": ports.issuer, "ca_file": "ca.crt"} | words
    host = common | {
        "targets": {
            "users": f"localhost:{ports.users}",
            "admin": f"localhost:{ports.admin}",
            "public": f"localhost:{ports.public}",
        },
        "traces_url": f"http://localhost:{ports.jaeger}",
    }
    keycloak = "https://keycloak:8443/realms/gatehouse"
    inside = common | {
        "discovery_url": f"{keycloak}/.well-known/openid-configuration",
        "revocation_endpoint": f"{keycloak}/protocol/openid-connect/revoke",
        "targets": {"users": "users:50051", "admin": "admin:50052", "public": "public:50053"},
        "traces_url": "http://jaeger:16686",
        "metrics": {name: f"http://{name}:9464/metrics" for name in ("users", "admin", "public")},
    }
    for name, profile in (("profile.json", host), ("inside.json", inside)):
        folder.write(name, json.dumps(profile, indent=2) + "\n")


def main() -> None:
    """Reads the arguments, makes what is missing and says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--realm", type=Path, required=True)
    for name in ("keycloak", "users", "admin", "public", "jaeger"):
        parser.add_argument(f"--{name}-port", required=True)
    given = parser.parse_args()
    ports = Ports(
        given.keycloak_port, given.users_port, given.admin_port, given.public_port, given.jaeger_port
    )
    now = dt.datetime.now(dt.UTC)
    try:
        prepare(given.root, given.realm, ports, now=now, owned=os.geteuid() == 0)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"setup: {error}; `docker compose down -v` starts over")
    sys.stdout.write(f"setup: certificates and secrets are in place below {given.root}\n")


if __name__ == "__main__":
    main()
