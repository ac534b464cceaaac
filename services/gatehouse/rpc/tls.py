"""TLS for servers and channels: certificates are read again when they change; plaintext must be asked for."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc


class TlsError(Exception):
    """A certificate or key cannot be used; the text names the file and the mend."""


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
        if self.certificate_file is None or self.private_key_file is None:
            if not self.plaintext:
                raise PlaintextRefused(
                    "no certificate: set GATEHOUSE_TLS__CERTIFICATE_FILE and "
                    "GATEHOUSE_TLS__PRIVATE_KEY_FILE, or GATEHOUSE_TLS__PLAINTEXT=true on loopback"
                )
            if not (_is_loopback(host) or self.plaintext_beyond_loopback):
                raise PlaintextRefused(
                    f"plaintext on {host}, which is not loopback: set a certificate, "
                    "or GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
                )
            return None
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
            TlsError: One cannot be read, or is not PEM.
        """
        contents = []
        for path, mark in zip(self._files, (b"CERTIFICATE", b"PRIVATE KEY"), strict=True):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise TlsError(
                    f"{path}: cannot be read ({error.strerror}); mend its path or permissions"
                ) from None
            if b"-----BEGIN " not in content or mark not in content:
                raise TlsError(f"{path}: holds no PEM {mark.decode().lower()}")
            contents.append(content)
        return grpc.ssl_server_certificate_configuration([(contents[1], contents[0])])

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
        except (TlsError, OSError):
            return None  # half-written: the old one serves until the next look
        self._stamp = stamp
        return fresh

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError:
            return ()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom a channel trusts.

    Attributes:
        ca_file: PEM certificates; None trusts what the system trusts.
        plaintext: Whether plaintext is wanted.
        plaintext_beyond_loopback: Whether it is wanted to other addresses than loopback too.
        server_name: Name that the certificate must have, when not the target's.
    """

    ca_file: Path | None = None
    plaintext: bool = False
    plaintext_beyond_loopback: bool = False
    server_name: str | None = None

    def credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Returns the credentials towards `target`; None for plaintext.

        Raises:
            PlaintextRefused: Plaintext was not asked for, or not for `target`.
            TlsError: The file cannot be read.
        """
        if self.plaintext:
            host = target.split("///", 1)[-1].rsplit(":", 1)[0]
            if not (_is_loopback(host) or self.plaintext_beyond_loopback or target.startswith("unix:")):
                raise PlaintextRefused(
                    f"plaintext to {host}, which is not loopback: use TLS, "
                    "or set GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"
                )
            return None
        if self.ca_file is None:
            return grpc.ssl_channel_credentials()
        try:
            return grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        except OSError as error:
            raise TlsError(
                f"{self.ca_file}: cannot be read ({error.strerror}); mend its path or permissions"
            ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
