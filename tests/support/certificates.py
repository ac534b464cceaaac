"""Certificates of a test: an authority, and the files of one server."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from gatehouse_testbed import certificates


class Authority:
    """Issues certificates into a folder; clients trust `ca_file`."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self._authority = certificates.Authority.create(dt.datetime.now(dt.UTC), name=name)
        self.ca_file.write_bytes(self._authority.pair.certificate)

    def issue(
        self,
        name: str = "localhost",
        passphrase: bytes | None = None,
        shift: dt.timedelta = dt.timedelta(0),
        others: Sequence[str] = ("localhost", "127.0.0.1"),
        *,
        for_client: bool = False,
    ) -> tuple[bytes, bytes]:
        """Return a certificate for `name` and `others`, valid from now plus `shift`, and its key, as PEM."""
        begin = dt.datetime.now(dt.UTC) + shift
        pair = self._authority.issue((name, *others), begin, passphrase=passphrase, for_client=for_client)
        return pair.certificate, pair.private_key

    def server_context(self, name: str = "localhost") -> ssl.SSLContext:
        """Return the TLS context of a server called `name`, or on loopback."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(*self.issue(name)))
        return context

    def write(self, certificate: bytes, key: bytes) -> tuple[Path, Path]:
        """Write both to the files of the server."""
        files = (self.folder / "server.pem", self.folder / "server.key")
        for file, content in zip(files, (certificate, key), strict=True):
            file.write_bytes(content)
        return files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority in a folder of this test."""
    return Authority(tmp_path)
