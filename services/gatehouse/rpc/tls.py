"""TLS for servers and channels: certificates are read again when they change; plaintext must be asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from gatehouse.oauth import is_loopback


class TlsError(Exception):
    """A certificate or key cannot be used; the text names the file and the mend."""

    exit_code = 2


class PlaintextRefused(TlsError):
    """Plaintext was not asked for, or not for this address."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How a server shows who it is.

    Attributes:
        certificate_file: PEM chain; None means plaintext.
        private_key_file: PEM key.
        plaintext: Whether plaintext is wanted.
        plaintext_beyond_loopback: Whether it is wanted on other addresses than loopback too.
        reload_seconds: How often, at most, the files are looked at.
    """

    certificate_file: Path | None = None
    private_key_file: Path | None = None
    plaintext: bool = False
    plaintext_beyond_loopback: bool = False
    reload_seconds: float = 5.0

    def credentials(
        self, host: str, monotonic: Callable[[], float] = time.monotonic
    ) -> grpc.ServerCredentials | None:
        """Returns the credentials for a server that listens on `host`; None for plaintext.

        Raises:
            PlaintextRefused: Plaintext was not asked for, or not for `host`.
            TlsError: A file cannot be read, or is no certificate.
        """
        if self.certificate_file is None and self.private_key_file is None:
            if not self.plaintext:
                raise PlaintextRefused(
                    "no certificate: set GATEHOUSE_TLS__CERTIFICATE_FILE and "
                    "GATEHOUSE_TLS__PRIVATE_KEY_FILE, or GATEHOUSE_TLS__PLAINTEXT=true on loopback"
                )
            if not (is_loopback(host) or self.plaintext_beyond_loopback):
                raise PlaintextRefused(
                    f"plaintext on {host}, which is not loopback: set a certificate, "
                    "or GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
                )
            return None
        if self.certificate_file is None or self.private_key_file is None:
            raise TlsError(
                "one of GATEHOUSE_TLS__CERTIFICATE_FILE and GATEHOUSE_TLS__PRIVATE_KEY_FILE is missing: "
                "set both"
            )
        reloader = _Reloader(self.certificate_file, self.private_key_file, self.reload_seconds, monotonic)
        return grpc.dynamic_ssl_server_credentials(reloader.read(), reloader.changed)  # type: ignore[arg-type] # None is "no change"


class _Reloader:
    """Reads a certificate and its key, and again when either file has changed.

    gRPC asks at every handshake, from a thread of its own.
    """

    def __init__(self, certificate: Path, key: Path, seconds: float, monotonic: Callable[[], float]) -> None:
        self._files = (certificate, key)
        self._seconds = seconds
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._stamp = self._stamps()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Reads both files.

        Raises:
            TlsError: One cannot be read, is not PEM, or they do not belong together.
        """
        chain_file, key_file = self._files
        chain, key = read_pem(chain_file), read_pem(key_file)
        certificate = parse_certificates(chain_file, chain)[0]
        if _private_key(key_file, key).public_key() != certificate.public_key():
            raise TlsError(f"{key_file}: is not the key of {chain_file}; give the two that belong together")
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the new certificate, or None when there is none."""
        now = self._monotonic()
        if now - self._looked_at < self._seconds:
            return None
        self._looked_at = now
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return None
            fresh = self.read()
        except TlsError:
            return None  # half-written: the old one serves until the next look
        self._stamp = stamp
        return fresh

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError:
            return ()


def read_pem(path: Path) -> bytes:
    """Return the content of a file; raise TlsError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: cannot be read ({error.strerror}); mend its path or permissions") from None


def parse_certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    """Return the certificates in `content`, which was read from `path`; raise TlsError if there is none."""
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{path}: holds no PEM certificate; give a chain, the server's own first") from None


def _private_key(path: Path, content: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise TlsError(f"{path}: is locked with a passphrase; give the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"{path}: holds no PEM private key; give one in PKCS #8") from None
