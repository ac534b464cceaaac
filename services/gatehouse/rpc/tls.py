"""TLS of servers: certificates are reloaded when they change, and plaintext must be allowed explicitly."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from gatehouse.settings import TlsSettings, is_loopback


class TlsError(Exception):
    """A certificate or key is unusable; the message names the file and the fix."""

    exit_code = 2


class PlaintextRefused(TlsError):
    """Plaintext is not allowed, or not for this address."""


def server_credentials(
    tls: TlsSettings, host: str, monotonic: Callable[[], float] = time.monotonic
) -> grpc.ServerCredentials | None:
    """Return the credentials of a server that listens on `host`, or None for plaintext.

    Args:
        tls: Certificate, or permission to use plaintext.
        host: Address to listen on.
        monotonic: Seconds of a monotonic clock.

    Raises:
        PlaintextRefused: Plaintext is not allowed, or not for `host`.
        TlsError: The certificate or key is unusable.
    """
    certificate, key = tls.certificate_file, tls.private_key_file
    if certificate is not None and key is not None:
        reloader = Reloader(certificate, key, tls.reload_seconds, monotonic)
        return grpc.dynamic_ssl_server_credentials(reloader.read(), reloader.changed)  # type: ignore[arg-type] # None is "no change"
    if certificate is not None or key is not None:
        raise TlsError(
            "only one of GATEHOUSE_TLS__CERTIFICATE_FILE and GATEHOUSE_TLS__PRIVATE_KEY_FILE is set; set both"
        )
    if not tls.plaintext:
        raise PlaintextRefused(
            "no TLS certificate; set GATEHOUSE_TLS__CERTIFICATE_FILE and GATEHOUSE_TLS__PRIVATE_KEY_FILE, "
            "or GATEHOUSE_TLS__PLAINTEXT=true on loopback"
        )
    if not (is_loopback(host) or tls.plaintext_beyond_loopback):
        raise PlaintextRefused(
            f"plaintext on {host}, which is not loopback; set a certificate, "
            "or GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
        )
    return None


class Reloader:
    """Load a certificate and its key, and load them again when either file changes.

    gRPC calls `changed` at every handshake, from another thread.

    Args:
        certificate: PEM certificate chain.
        key: PEM private key.
        seconds: Shortest time between two checks of the files.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(self, certificate: Path, key: Path, seconds: float, monotonic: Callable[[], float]) -> None:
        self._files = (certificate, key)
        self._seconds = seconds
        self._monotonic = monotonic
        self._checked_at = monotonic()
        self._versions = self._read_versions()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Load both files.

        Raises:
            TlsError: A file cannot be read or is not PEM, or the key does not match the certificate.
        """
        chain_file, key_file = self._files
        chain, key = read_pem(chain_file), read_pem(key_file)
        certificate = parse_certificates(chain_file, chain)[0]
        if _private_key(key_file, key).public_key() != certificate.public_key():
            raise TlsError(f"{key_file}: is not the key of {chain_file}; provide the matching key")
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new certificate, or None if it has not changed."""
        now = self._monotonic()
        if now - self._checked_at < self._seconds:
            return None
        self._checked_at = now
        try:
            versions = self._read_versions()
            if versions == self._versions:
                return None
            configuration = self.read()
        except TlsError:
            return None  # half-written; keep the old certificate until the next check
        self._versions = versions
        return configuration

    def _read_versions(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError:
            return ()


def read_pem(path: Path) -> bytes:
    """Return the content of a file; raise TlsError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: cannot be read ({error.strerror}); fix its path or permissions") from None


def parse_certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    """Return the certificates in `content`, which was read from `path`; raise TlsError if there is none."""
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(
            f"{path}: contains no PEM certificate; provide a chain that begins with the server's own"
        ) from None


def _private_key(path: Path, content: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise TlsError(f"{path}: is encrypted with a passphrase; provide the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"{path}: contains no PEM private key; provide one in PKCS #8 format") from None
