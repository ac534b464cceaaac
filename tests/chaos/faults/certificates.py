"""Faults of certificates: bad ones are put in place, good ones and authorities are replaced."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from gatehouse_testbed.certificates import LOOPBACK, Authority, KeyPair
from tests.chaos.environment import Environment, Target
from tests.chaos.model import Fault, Run

ROTATION_SECONDS = 10.0


@asynccontextmanager
async def _replica(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas() as target:
        yield target


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@asynccontextmanager
async def _kept(*files: Path) -> AsyncIterator[None]:
    """Restore files when the context ends."""
    contents = {file: file.read_bytes() for file in files}
    try:
        yield
    finally:
        for file, content in contents.items():
            file.write_bytes(content)


def _files(run: Run) -> tuple[Path, Path, Path]:
    settings = run.environment.settings()
    names = ("CA_FILE", "CERTIFICATE_FILE", "PRIVATE_KEY_FILE")
    ca, certificate, key = (Path(settings[f"GATEHOUSE_TLS__{name}"]) for name in names)
    return ca, certificate, key


def _put(run: Run, pair: KeyPair) -> None:
    _, certificate, key = _files(run)
    key.write_bytes(pair.private_key)
    certificate.write_bytes(pair.certificate)


async def _served(port: int) -> bytes:
    """Return the certificate that a new connection gets."""
    return (await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))).encode()


@asynccontextmanager
async def _bad(run: Run, starts: dt.timedelta, lifetime: dt.timedelta) -> AsyncIterator[None]:
    """Put a certificate in place that is not valid now, from an authority that clients trust."""
    ca, certificate, key = _files(run)
    authority = Authority.create(_now() + min(starts, dt.timedelta(0)))
    good = await _served(run.target.port)
    lines = _certificate_lines(run)
    async with _kept(ca, certificate, key):
        ca.write_bytes(ca.read_bytes() + authority.pair.certificate)
        _put(run, authority.issue(LOOPBACK, _now() + starts, lifetime=lifetime))

        async def logged() -> bool:
            await run.call_with(run.work.tokens.value)  # a new connection makes the server check its files
            return _certificate_lines(run) > lines

        run.guarantee("a log line says why it is refused", await run.until(logged, ROTATION_SECONDS))
        served = await _served(run.target.port)
        run.guarantee("new connections get the good certificate", served.strip() == good.strip())
        yield


def _certificate_lines(run: Run) -> int:
    lines = [json.loads(line) for line in run.target.process.log.read_text().splitlines()]
    return sum("certificate" in line["event"] and line["level"] in {"warning", "error"} for line in lines)


@asynccontextmanager
async def _rotated(run: Run) -> AsyncIterator[None]:
    """Trust another authority as well, then use a certificate of it."""
    ca, certificate, key = _files(run)
    authority = Authority.create(_now())
    async with _kept(ca, certificate, key):
        ca.write_bytes(ca.read_bytes() + authority.pair.certificate)
        _put(run, authority.issue(LOOPBACK, _now()))

        async def used() -> bool:
            await run.call_with(run.work.tokens.value)
            return authority.has_issued(await _served(run.target.port))

        rotated = await run.until(used, ROTATION_SECONDS)
        run.guarantee(
            f"new connections get the new certificate within {ROTATION_SECONDS:g} s", rotated, timed=True
        )
        yield


# <part admin>
async def _restart_users(environment: Environment) -> None:
    await environment.stack.processes["users"].stop()
    await environment.stack.restart("users")


@asynccontextmanager
async def _authority_replaced(run: Run) -> AsyncIterator[None]:
    """Replace the authority, restart UserService, and call it through AdminService."""
    environment = run.environment
    ca, certificate, key = _files(run)
    authority = Authority.create(_now())
    async with _kept(ca, certificate, key):
        await environment.get_stats()
        ca.write_bytes(ca.read_bytes() + authority.pair.certificate)
        _put(run, authority.issue(LOOPBACK, _now()))
        ca.write_bytes(authority.pair.certificate)
        await _restart_users(environment)

        async def answered() -> bool:
            return await environment.get_stats() == "OK"

        answers = await run.until(answered, ROTATION_SECONDS)
        run.guarantee(f"AdminService reaches UserService within {ROTATION_SECONDS:g} s", answers, timed=True)
        yield
    await _restart_users(environment)


# </part admin>


def _certificate_fault(name: str, summary: str, starts: dt.timedelta, lifetime: dt.timedelta) -> Fault:
    return Fault(
        name,
        summary,
        partial(_bad, starts=starts, lifetime=lifetime),
        target=_replica,
        logs="certificate refused",
    )


_MONTH = dt.timedelta(days=30)

FAULTS = (
    _certificate_fault("certificate-expired", "an expired certificate is put in place", -2 * _MONTH, _MONTH),
    _certificate_fault(
        "certificate-early", "a certificate is put in place that is not valid yet", _MONTH, _MONTH
    ),
    Fault(
        "certificate-rotated",
        "clients trust a second authority, and a certificate of it is put in place",
        _rotated,
        target=_replica,
    ),
    # <part admin>
    Fault(
        "authority-replaced",
        "the authority of all certificates is replaced, and UserService is restarted below AdminService",
        _authority_replaced,
        target=_replica,
    ),
    # </part admin>
)
