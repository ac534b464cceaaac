"""TLS of servers: certificates are reloaded when they change, and plaintext must be allowed explicitly."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from structlog.typing import FilteringBoundLogger

from gatehouse.settings import FileCheck, TlsSettings, is_loopback


class TlsError(Exception):
    """A certificate or key is unusable; the message names the file and the fix."""

    exit_code = 2


class PlaintextRefused(TlsError):
    """Plaintext is not allowed, or not for this address."""


def server_credentials(
    tls: TlsSettings, host: str, logger: FilteringBoundLogger, on_load: Callable[[dt.datetime], None]
) -> grpc.ServerCredentials | None:
    """Return the credentials of a server that listens on `host`, or None for plaintext.

    Args:
        tls: Certificate, or permission to use plaintext.
        host: Address to listen on.
        logger: Gets a line when the certificate is reloaded or refused.
        on_load: Called with the expiry of each certificate that is loaded.

    Raises:
        PlaintextRefused: Plaintext is not allowed, or not for `host`.
        TlsError: The certificate or key is unusable.
    """
    certificate, key = tls.certificate_file, tls.private_key_file
    if certificate is not None and key is not None:
        reloader = Reloader(certificate, key, tls.reload_seconds, logger, on_load)
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


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Reloader:
    """Load a certificate and its key, and load them again when either file changes.

    A pair that cannot be used is refused, and the one before is kept. gRPC calls `changed` at every
    handshake, from another thread.

    Args:
        certificate: PEM certificate chain.
        key: PEM private key.
        seconds: Shortest time between two checks of the files.
        logger: Gets a line when the certificate is reloaded or refused.
        on_load: Called with the expiry of each certificate that is loaded.
        monotonic: Seconds of a monotonic clock.
        now: Current time.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        seconds: float,
        logger: FilteringBoundLogger,
        on_load: Callable[[dt.datetime], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = _now,
    ) -> None:
        self._files = (certificate, key)
        self._check = FileCheck(self._files, seconds, monotonic)
        self._logger = logger
        self._on_load = on_load
        self._now = now
        self._refused = ""

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Load both files.

        Raises:
            TlsError: A file cannot be read or is not PEM, the certificate is not valid now, or the key does
                not match it.
        """
        configuration, _ = self._read()
        return configuration

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new certificate, or None if it has not changed or is refused."""
        if not self._check.changed():
            return None
        try:
            configuration, certificate = self._read()
        except TlsError as error:
            # Perhaps half-written, or valid from a later time on, so the files are read again at each check.
            if str(error) != self._refused:
                self._refused = str(error)
                self._logger.error("certificate refused", reason=self._refused)  # noqa: TRY400 - expected
            return None
        self._check.accept()
        self._refused = ""
        self._logger.info(
            "certificate reloaded",
            file=str(self._files[0]),
            serial_number=f"{certificate.serial_number:x}",
            expires=certificate.not_valid_after_utc.isoformat(),
        )
        return configuration

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, x509.Certificate]:
        chain_file, key_file = self._files
        chain, key = read_pem(chain_file), read_pem(key_file)
        certificate = parse_certificates(chain_file, chain)[0]
        now, begin, end = self._now(), certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > end:
            raise TlsError(f"{chain_file}: expired at {end.isoformat()}; provide a current certificate")
        if now < begin:
            raise TlsError(f"{chain_file}: not valid before {begin.isoformat()}; check it and the clock")
        if _private_key(key_file, key).public_key() != certificate.public_key():
            raise TlsError(f"{key_file}: is not the key of {chain_file}; provide the matching key")
        self._on_load(end)
        return grpc.ssl_server_certificate_configuration([(key, chain)]), certificate


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


def read_authorities(path: Path) -> bytes:
    """Return the content of a file with certificate authorities; raise TlsError if it cannot be used."""
    content = read_pem(path)
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{path}: contains no PEM certificate; provide those of the authorities") from None
    return content


def _private_key(path: Path, content: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise TlsError(f"{path}: is encrypted with a passphrase; provide the key without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"{path}: contains no PEM private key; provide one in PKCS #8 format") from None
