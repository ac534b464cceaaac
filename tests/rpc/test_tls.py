"""TLS: certificates are reloaded, invalid ones are errors, and plaintext must be allowed."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from gatehouse.client import connect
from gatehouse.client.tls import channel_credentials
from gatehouse.rpc import PlaintextRefused, TlsError
from gatehouse.rpc.tls import Reloader, server_credentials
from gatehouse.settings import TlsSettings
from tests.support.certificates import Authority
from tests.support.rpc import PROBE, Env, Text, open_env, reached
from tests.support.services import FixedToken, quiet
from tests.support.telemetry import MetricsReader


def probe_call(channel: grpc.aio.Channel, timeout: float = 10.0) -> Any:
    stub: Any = channel.unary_unary(f"/{PROBE}/Unary", Text.SerializeToString, Text.FromString)
    return stub(Text(value="a"), timeout=timeout)


def connect_to(env: Env, authority: Authority, **more: Any) -> grpc.aio.Channel:
    return connect(
        f"localhost:{env.port}",
        tls=TlsSettings(ca_file=authority.ca_file),
        tokens=FixedToken("good"),
        **more,
    )


async def served_certificate(port: int) -> str:
    """Return the common name of the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    name: str = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return name.removeprefix("CN=")


@pytest.fixture
async def secure(authority: Authority) -> AsyncIterator[Env]:
    """A server with TLS that checks its files at every handshake."""
    certificate_file, private_key_file = authority.write(*authority.issue("first"))
    tls = TlsSettings(
        certificate_file=certificate_file, private_key_file=private_key_file, reload_seconds=1e-9
    )
    async with open_env(tls=tls) as env:
        yield env


async def test_calls_work_over_tls(secure: Env, authority: Authority) -> None:
    async with connect_to(secure, authority) as channel:
        assert (await probe_call(channel)).value == "a"


async def test_a_handler_sees_that_its_call_uses_tls(secure: Env, authority: Authority) -> None:
    seen: list[Any] = []

    async def look(_: object, context: Any) -> None:
        seen.append(context.auth_context()["transport_security_type"])

    secure.probe.on_message = look
    async with connect_to(secure, authority) as channel:
        await probe_call(channel)
    assert seen == [[b"ssl"]]


async def test_a_plaintext_client_cannot_call_a_tls_server(secure: Env) -> None:
    code, _, _ = await secure.client.outcome("Unary", "a", timeout=5.0)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert secure.verifier.asked == []


async def test_a_server_with_an_untrusted_certificate_gets_no_token(secure: Env, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "another authority")
    async with connect_to(secure, stranger) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe_call(channel, timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert secure.verifier.asked == []


async def test_a_private_authority_is_not_trusted_by_default(secure: Env) -> None:
    channel = connect(f"localhost:{secure.port}", tls=TlsSettings(), tokens=FixedToken("good"))
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await probe_call(channel, timeout=5.0)
    assert secure.verifier.asked == []


async def test_the_certificate_must_have_the_expected_name(secure: Env, authority: Authority) -> None:
    async with connect_to(secure, authority, server_name="first") as channel:
        assert (await probe_call(channel)).value == "a"
    async with connect_to(secure, authority, server_name="second") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await probe_call(channel, timeout=5.0)


async def test_a_new_certificate_is_used_and_connections_stay_open(secure: Env, authority: Authority) -> None:
    assert await served_certificate(secure.port) == "first"
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        await go_on.wait()

    secure.probe.on_message = wait
    async with connect_to(secure, authority) as channel:
        call = asyncio.create_task(call_probe(channel))
        await begun.wait()
        authority.write(*authority.issue("second"))
        assert await served_certificate(secure.port) == "second"
        go_on.set()
        assert await call == "a"
        assert await call_probe(channel) == "a"


async def test_channel_trusts_a_new_authority_and_calls_in_progress_continue(
    secure: Env, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="gatehouse.client")
    (tmp_path / "new").mkdir()
    new = Authority(tmp_path / "new")
    tls = TlsSettings(ca_file=authority.ca_file, reload_seconds=1e-9)
    busy, idle = (connect(f"localhost:{secure.port}", tls=tls, tokens=FixedToken("good")) for _ in range(2))
    async with busy, idle:
        echo: Any = busy.stream_stream(f"/{PROBE}/BidiStream", Text.SerializeToString, Text.FromString)
        stream = echo(timeout=60)
        await stream.write(Text(value="a"))
        assert (await stream.read()).value == "a"
        authority.ca_file.write_bytes(new.ca_file.read_bytes()[:100])
        for _ in range(2):
            assert await call_probe(busy) == "a"
        authority.ca_file.write_bytes(new.ca_file.read_bytes())
        authority.write(*new.issue("second"))
        for channel in (busy, idle):
            assert await call_probe(channel) == "a"
        await stream.write(Text(value="b"))
        assert (await stream.read()).value == "b"
    refused, *reloaded = [record.getMessage() for record in caplog.records]
    assert refused.startswith(f"certificate authorities refused: {authority.ca_file}: contains no PEM")
    assert reloaded == ["certificate authorities reloaded"] * 2


async def call_probe(channel: grpc.aio.Channel) -> str:
    value: str = (await probe_call(channel)).value
    return value


@pytest.mark.parametrize("part", ["certificate", "key"])
async def test_the_old_certificate_is_kept_while_a_file_is_half_written(
    secure: Env, authority: Authority, part: str
) -> None:
    certificate, key = authority.issue("second")
    if part == "certificate":
        authority.write(certificate[: len(certificate) // 2], key)
    else:
        authority.write(certificate, key[: len(key) // 2])
    assert await served_certificate(secure.port) == "first"
    authority.write(certificate, key)
    assert await served_certificate(secure.port) == "second"


async def test_the_old_certificate_is_kept_until_the_new_key_is_there(
    secure: Env, authority: Authority
) -> None:
    certificate, key = authority.issue("second")
    (authority.folder / "server.pem").write_bytes(certificate)
    assert await served_certificate(secure.port) == "first"
    (authority.folder / "server.key").write_bytes(key)
    assert await served_certificate(secure.port) == "second"


async def test_the_old_certificate_is_kept_while_a_file_is_missing(secure: Env, authority: Authority) -> None:
    (authority.folder / "server.pem").unlink()
    assert await served_certificate(secure.port) == "first"
    authority.write(*authority.issue("second"))
    assert await served_certificate(secure.port) == "second"


def test_files_are_checked_at_the_reload_interval(authority: Authority) -> None:
    now = 0.0
    files = authority.write(*authority.issue("first"))
    reloader = Reloader(*files, 5.0, quiet(), ignore, lambda: now)
    reloader.read()
    authority.write(*authority.issue("second"))
    now = 4.9
    assert reloader.changed() is None
    now = 5.0
    assert reloader.changed() is not None
    now = 10.0
    assert reloader.changed() is None


def test_invalid_files_are_checked_again(authority: Authority) -> None:
    certificate, key = authority.issue("first")
    reloader = Reloader(*authority.write(certificate, key), 0.0, quiet(), ignore, lambda: 0.0)
    authority.write(certificate[:100], key)
    assert reloader.changed() is None
    authority.write(*authority.issue("second"))
    assert reloader.changed() is not None
    assert reloader.changed() is None


async def test_unusable_certificates_are_refused_and_each_reason_is_logged_once(
    authority: Authority, metrics: MetricsReader
) -> None:
    files = authority.write(*authority.issue("first"))
    tls = TlsSettings(certificate_file=files[0], private_key_file=files[1], reload_seconds=1e-9)
    async with open_env(tls=tls, metrics=metrics.rpc) as env:

        def lines(event: str) -> list[dict[str, Any]]:
            return [line for line in env.log if line["event"] == event]

        for shift, reason in ((-60, "expired at"), (60, "not valid before")):
            authority.write(*authority.issue("second", shift=dt.timedelta(days=shift)))
            for _ in range(2):
                assert await served_certificate(env.port) == "first"
            assert reason in lines("certificate refused")[-1]["reason"]
        certificate, key = authority.issue("second")
        authority.write(certificate, authority.issue()[1])
        assert await served_certificate(env.port) == "first"
        assert "is not the key of" in lines("certificate refused")[-1]["reason"]
        authority.write(certificate, key)
        assert await served_certificate(env.port) == "second"
    assert [line["level"] for line in lines("certificate refused")] == ["error"] * 3
    (rotation,) = lines("certificate reloaded")
    assert (rotation["level"], rotation["file"]) == ("info", str(files[0]))
    assert metrics.value("gatehouse_tls_certificate_expires_in_days") == pytest.approx(30, abs=0.1)


def test_certificate_is_used_once_it_is_valid(authority: Authority) -> None:
    now = dt.datetime.now(dt.UTC)
    files = authority.write(*authority.issue("first"))
    reloader = Reloader(*files, 0.0, quiet(), ignore, lambda: 0.0, lambda: now)
    authority.write(*authority.issue("second", shift=dt.timedelta(days=1)))
    assert reloader.changed() is None
    now += dt.timedelta(days=1)
    assert reloader.changed() is not None


def ignore(_: object) -> None:
    pass


def credentials(tls: TlsSettings, host: str) -> grpc.ServerCredentials | None:
    return server_credentials(tls, host, quiet(), ignore)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_plaintext_on_loopback_needs_one_setting(host: str) -> None:
    assert credentials(TlsSettings(plaintext=True), host) is None
    with pytest.raises(PlaintextRefused, match="GATEHOUSE_TLS__PLAINTEXT=true"):
        credentials(TlsSettings(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gatehouse.example.com", ""])
def test_plaintext_beyond_loopback_needs_two_settings(host: str) -> None:
    with pytest.raises(PlaintextRefused, match="GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"):
        credentials(TlsSettings(plaintext=True), host)
    with pytest.raises(PlaintextRefused):
        credentials(TlsSettings(plaintext_beyond_loopback=True), host)
    assert credentials(TlsSettings(plaintext=True, plaintext_beyond_loopback=True), host) is None


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051",
        "localhost:50051",
        "localhost",
        "[::1]:50051",
        "dns:///localhost:50051",
        "dns:localhost:50051",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:50051",
        "unix:/run/gatehouse.sock",
        "unix:///run/gatehouse.sock",
        "unix-abstract:gatehouse",
    ],
)
def test_plaintext_to_loopback_needs_one_setting(target: str) -> None:
    assert channel_credentials(TlsSettings(plaintext=True), target) is None
    assert channel_credentials(TlsSettings(), target) is not None


@pytest.mark.parametrize(
    "target",
    [
        "10.0.0.1:50051",
        "users:50051",
        "dns:///users.example.com:50051",
        "dns://127.0.0.1/users.example.com:50051",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "localhost.example.com:50051",
        "xds:///localhost",
        "",
    ],
)
def test_plaintext_to_another_host_needs_two_settings(target: str) -> None:
    with pytest.raises(PlaintextRefused, match="is not loopback"):
        channel_credentials(TlsSettings(plaintext=True), target)
    assert channel_credentials(TlsSettings(plaintext=True, plaintext_beyond_loopback=True), target) is None


def single_line(error: pytest.ExceptionInfo[TlsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_one_file_alone_is_an_error(authority: Authority, missing: str) -> None:
    certificate, key = authority.write(*authority.issue())
    with pytest.raises(TlsError) as caught:
        load(None if missing == "certificate" else certificate, None if missing == "key" else key)
    assert single_line(caught).endswith("is set; set both")


def load(certificate: Path | None, key: Path | None) -> None:
    credentials(TlsSettings(certificate_file=certificate, private_key_file=key), "127.0.0.1")


def test_an_unreadable_certificate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TlsError) as caught:
        load(tmp_path / "none.pem", tmp_path / "none.key")
    assert single_line(caught) == (
        f"{tmp_path / 'none.pem'}: cannot be read (No such file or directory); fix its path or permissions"
    )


def test_an_invalid_certificate_is_an_error(authority: Authority) -> None:
    files = authority.write(b"-----BEGIN CERTIFICATE-----\nx", authority.issue()[1])
    with pytest.raises(TlsError) as caught:
        load(*files)
    assert single_line(caught).startswith(f"{files[0]}: contains no PEM certificate")


def test_an_invalid_key_is_an_error(authority: Authority) -> None:
    files = authority.write(authority.issue()[0], b"-----BEGIN PRIVATE KEY-----\nx")
    with pytest.raises(TlsError) as caught:
        load(*files)
    assert single_line(caught).startswith(f"{files[1]}: contains no PEM private key")


@pytest.mark.parametrize(("shift", "reason"), [(-60, "expired at 20"), (60, "not valid before 20")])
def test_a_certificate_that_is_not_valid_now_is_an_error(
    authority: Authority, shift: int, reason: str
) -> None:
    files = authority.write(*authority.issue(shift=dt.timedelta(days=shift)))
    with pytest.raises(TlsError) as caught:
        load(*files)
    assert single_line(caught).startswith(f"{files[0]}: {reason}")


def test_an_encrypted_key_is_an_error(authority: Authority) -> None:
    files = authority.write(*authority.issue(passphrase=b"canary"))
    with pytest.raises(TlsError) as caught:
        load(*files)
    assert single_line(caught).startswith(f"{files[1]}: is encrypted with a passphrase")


def test_a_key_of_another_certificate_is_an_error(authority: Authority) -> None:
    files = authority.write(authority.issue()[0], authority.issue()[1])
    with pytest.raises(TlsError) as caught:
        load(*files)
    assert single_line(caught).startswith(f"{files[1]}: is not the key of {files[0]}")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_unusable_ca_file_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TlsError) as caught:
        channel_credentials(TlsSettings(ca_file=file), "localhost:1")
    assert single_line(caught).startswith(f"{file}: ")


async def test_a_server_without_permission_for_plaintext_does_not_start() -> None:
    with pytest.raises(PlaintextRefused):
        async with open_env(tls=TlsSettings()):
            pass
    with pytest.raises(PlaintextRefused):
        async with open_env(tls=TlsSettings(plaintext=True), host="0.0.0.0"):
            pass


async def test_calls_succeed_while_certificates_change(secure: Env, authority: Authority) -> None:
    done = asyncio.Event()
    codes: list[grpc.StatusCode] = []

    async def call_on_new_connections() -> None:
        while not done.is_set():
            async with connect_to(secure, authority) as channel:
                call = probe_call(channel)
                codes.append(await call.code())

    calling = asyncio.create_task(call_on_new_connections())
    for round_ in range(1, 21):
        authority.write(*authority.issue(f"certificate {round_}"))
        await reached(lambda: len(codes), round_)
    done.set()
    await calling
    assert set(codes) == {grpc.StatusCode.OK}
