"""A certificate authority for development: for the demo, for the containers and for the tests."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LIFETIME = dt.timedelta(days=30)
# Clocks differ a little.
_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    private_key: bytes = field(repr=False)


class Authority:
    """Signs server certificates (RFC 5280, RFC 9525).

    Args:
        pair: Certificate and key of the authority.
    """

    def __init__(self, pair: KeyPair) -> None:
        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.private_key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - `create` made it
        self._key = key

    @classmethod
    def create(
        cls,
        now: dt.datetime,
        *,
        lifetime: dt.timedelta = LIFETIME,
        name: str = "Gatehouse development authority",
    ) -> Self:
        """Create an authority that is valid from `now` on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, key.public_key(), now, lifetime)
            .issuer_name(subject)
            .add_extension(_issued_by(key.public_key()), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pair(certificate, key))

    def issue(
        self,
        names: Sequence[str],
        now: dt.datetime,
        *,
        lifetime: dt.timedelta = LIFETIME,
        passphrase: bytes | None = None,
        for_client: bool = False,
    ) -> KeyPair:
        """Create the certificate of a server, or of a client.

        Args:
            names: Host names and IP addresses, the most important one first.
            now: Start of its validity.
            lifetime: How long it is valid.
            passphrase: Encrypts the private key.
            for_client: Whether it is for the client of a TLS connection, and not for the server.
        """
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if for_client else ExtendedKeyUsageOID.SERVER_AUTH
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(names[0]), key.public_key(), now, lifetime)
            .issuer_name(self._certificate.subject)
            .add_extension(_issued_by(self._key.public_key()), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pair(certificate, key, passphrase)

    def has_issued(self, certificate: bytes) -> bool:
        """Return whether a PEM certificate names the key of this authority as its issuer's."""
        extensions = x509.load_pem_x509_certificate(certificate).extensions
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return found == _issued_by(self._key.public_key()).key_identifier


def valid_until(certificate: bytes) -> dt.datetime:
    """Return when a PEM certificate expires."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server, and of the authority that its clients trust."""

    ca_file: Path
    certificate_file: Path
    private_key_file: Path


def write_certificates(
    folder: Path, names: Sequence[str] = LOOPBACK, authority: Authority | None = None
) -> TlsFiles:
    """Create a server certificate in `folder`; the key of its authority is not written.

    Args:
        folder: Where the files are written; only the owner may read the private key.
        names: Host names and IP addresses of the server.
        authority: Signs the certificate; None creates one.
    """
    now = dt.datetime.now(dt.UTC)
    authority = authority or Authority.create(now)
    server = authority.issue(names, now)
    files = TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    files.ca_file.write_bytes(authority.pair.certificate)
    files.certificate_file.write_bytes(server.certificate)
    files.private_key_file.touch(mode=0o600)
    files.private_key_file.write_bytes(server.private_key)
    return files


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, lifetime: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pair(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None
) -> KeyPair:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _issued_by(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


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


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
