"""Certificates of the test bed."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import stat
from pathlib import Path

import pytest

from gatehouse_testbed.certificates import Authority, valid_until, write_certificates

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


async def test_client_that_trusts_the_authority_accepts_the_server_by_its_names_only(tmp_path: Path) -> None:
    files = write_certificates(tmp_path)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.certificate_file, files.private_key_file)
    trusting = ssl.create_default_context(cafile=files.ca_file)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=serving) as server:
        port = server.sockets[0].getsockname()[1]
        for name in ("localhost", "127.0.0.1"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
            writer.close()
        for context, name in ((trusting, "other.test"), (ssl.create_default_context(), "localhost")):
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    assert stat.S_IMODE(files.private_key_file.stat().st_mode) == 0o600


def test_authority_is_loaded_from_its_files_and_recognizes_its_certificates() -> None:
    authority = Authority.create(NOW)
    loaded = Authority(authority.pair)
    issued = loaded.issue(["users"], NOW, lifetime=dt.timedelta(days=1))
    assert authority.has_issued(issued.certificate)
    assert not Authority.create(NOW).has_issued(issued.certificate)
    assert valid_until(issued.certificate) == NOW + dt.timedelta(days=1)
