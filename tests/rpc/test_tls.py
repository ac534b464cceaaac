"""TLS is on, certificates change under a running server, and plaintext has to be asked for."""

import asyncio
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
from gatehouse.rpc import PlaintextRefused, ServerTls, TlsError
from gatehouse.settings import TlsSettings
from tests.support.certificates import Authority
from tests.support.rpc import PROBE, Stand, Text, reached
from tests.support.services import FixedToken


def probe_call(channel: grpc.aio.Channel, timeout: float = 10.0) -> Any:
    stub: Any = channel.unary_unary(f"/{PROBE}/OneOne", Text.SerializeToString, Text.FromString)
    return stub(Text(value="a"), timeout=timeout)


def trusting(stand: Stand, authority: Authority, **more: Any) -> grpc.aio.Channel:
    return connect(
        f"localhost:{stand.port}",
        tls=TlsSettings(ca_file=authority.ca_file),
        tokens=FixedToken("good"),
        **more,
    )


async def shown_certificate(port: int) -> str:
    """Returns the name in the certificate that a new connection is shown."""
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
async def secure(open_stand: Any, authority: Authority) -> AsyncIterator[Stand]:
    """The probe behind TLS; its files are looked at for every connection."""
    certificate_file, private_key_file = authority.write(*authority.issue("first"))
    tls = ServerTls(certificate_file, private_key_file, reload_seconds=0.0)
    async with open_stand(tls=tls) as stand:
        yield stand


async def test_a_call_over_tls_is_answered(secure: Stand, authority: Authority) -> None:
    async with trusting(secure, authority) as channel:
        assert (await probe_call(channel)).value == "a"


async def test_a_handler_sees_that_its_call_came_over_tls(secure: Stand, authority: Authority) -> None:
    seen: list[Any] = []

    async def look(_: object, context: Any) -> None:
        seen.append(context.auth_context()["transport_security_type"])

    secure.probe.on_message = look
    async with trusting(secure, authority) as channel:
        await probe_call(channel)
    assert seen == [[b"ssl"]]


async def test_a_plaintext_client_gets_nothing_from_a_tls_server(secure: Stand) -> None:
    code, _, _ = await secure.client.outcome("OneOne", "a", timeout=5.0)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert secure.verifier.asked == []


async def test_a_server_of_another_authority_is_not_trusted_and_gets_no_token(
    secure: Stand, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority.create(tmp_path / "other", "another authority")
    async with trusting(secure, stranger) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe_call(channel, timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert secure.verifier.asked == []


async def test_the_system_s_authorities_do_not_know_ours(secure: Stand) -> None:
    channel = connect(f"localhost:{secure.port}", tls=TlsSettings(), tokens=FixedToken("good"))
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await probe_call(channel, timeout=5.0)
    assert secure.verifier.asked == []


async def test_a_server_is_held_to_the_name_that_was_asked_for(secure: Stand, authority: Authority) -> None:
    async with trusting(secure, authority, server_name="first") as channel:
        assert (await probe_call(channel)).value == "a"
    async with trusting(secure, authority, server_name="second") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await probe_call(channel, timeout=5.0)


async def test_a_new_certificate_is_shown_and_established_connections_stay(
    secure: Stand, authority: Authority
) -> None:
    assert await shown_certificate(secure.port) == "first"
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        await go_on.wait()

    secure.probe.on_message = wait
    async with trusting(secure, authority) as channel:
        call = asyncio.create_task(_answer(channel))
        await begun.wait()
        authority.write(*authority.issue("second"))
        assert await shown_certificate(secure.port) == "second"
        go_on.set()
        assert await call == "a"
        assert await _answer(channel) == "a"


async def _answer(channel: grpc.aio.Channel) -> str:
    value: str = (await probe_call(channel)).value
    return value


@pytest.mark.parametrize("part", ["certificate", "key"])
async def test_a_half_written_file_keeps_the_old_certificate(
    secure: Stand, authority: Authority, part: str
) -> None:
    certificate, key = authority.issue("second")
    if part == "certificate":
        authority.write(certificate[: len(certificate) // 2], key)
    else:
        authority.write(certificate, key[: len(key) // 2])
    assert await shown_certificate(secure.port) == "first"
    authority.write(certificate, key)
    assert await shown_certificate(secure.port) == "second"


async def test_a_certificate_whose_key_has_not_come_yet_keeps_the_old_one(
    secure: Stand, authority: Authority
) -> None:
    certificate, key = authority.issue("second")
    (authority.folder / "server.pem").write_bytes(certificate)
    assert await shown_certificate(secure.port) == "first"
    (authority.folder / "server.key").write_bytes(key)
    assert await shown_certificate(secure.port) == "second"


async def test_a_file_that_is_gone_for_a_moment_keeps_the_old_certificate(
    secure: Stand, authority: Authority
) -> None:
    (authority.folder / "server.pem").unlink()
    assert await shown_certificate(secure.port) == "first"
    authority.write(*authority.issue("second"))
    assert await shown_certificate(secure.port) == "second"


def test_files_are_looked_at_no_more_often_than_was_said(authority: Authority) -> None:
    from gatehouse.rpc.tls import _Reloader

    now = 0.0
    files = authority.write(*authority.issue("first"))
    reloader = _Reloader(*files, 5.0, lambda: now)
    reloader.read()
    authority.write(*authority.issue("second"))
    now = 4.9
    assert reloader.changed() is None
    now = 5.0
    assert reloader.changed() is not None
    now = 10.0
    assert reloader.changed() is None


def test_files_that_make_no_sense_yet_are_looked_at_again(authority: Authority) -> None:
    from gatehouse.rpc.tls import _Reloader

    certificate, key = authority.issue("first")
    reloader = _Reloader(*authority.write(certificate, key), 0.0, lambda: 0.0)
    authority.write(certificate[:100], key)
    assert reloader.changed() is None
    authority.write(*authority.issue("second"))
    assert reloader.changed() is not None
    assert reloader.changed() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_plaintext_on_loopback_takes_one_setting(host: str) -> None:
    assert ServerTls(plaintext=True).credentials(host) is None
    with pytest.raises(PlaintextRefused, match="GATEHOUSE_TLS__PLAINTEXT=true"):
        ServerTls().credentials(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gatehouse.example.com", ""])
def test_plaintext_beyond_loopback_takes_two_settings(host: str) -> None:
    with pytest.raises(PlaintextRefused, match="GATEHOUSE_TLS__PLAINTEXT_BEYOND_LOOPBACK=true"):
        ServerTls(plaintext=True).credentials(host)
    with pytest.raises(PlaintextRefused):
        ServerTls(plaintext_beyond_loopback=True).credentials(host)
    assert ServerTls(plaintext=True, plaintext_beyond_loopback=True).credentials(host) is None


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
def test_plaintext_to_this_machine_takes_one_setting(target: str) -> None:
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
def test_plaintext_to_another_machine_takes_two_settings(target: str) -> None:
    with pytest.raises(PlaintextRefused, match="is not loopback"):
        channel_credentials(TlsSettings(plaintext=True), target)
    assert channel_credentials(TlsSettings(plaintext=True, plaintext_beyond_loopback=True), target) is None


def in_one_line(error: pytest.ExceptionInfo[TlsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_one_file_of_the_two_is_not_enough(authority: Authority, missing: str) -> None:
    certificate, key = authority.write(*authority.issue())
    tls = ServerTls(None if missing == "certificate" else certificate, None if missing == "key" else key)
    with pytest.raises(TlsError) as caught:
        tls.credentials("127.0.0.1")
    assert in_one_line(caught).endswith("is missing: set both")


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TlsError) as caught:
        ServerTls(tmp_path / "none.pem", tmp_path / "none.key").credentials("127.0.0.1")
    assert in_one_line(caught) == (
        f"{tmp_path / 'none.pem'}: cannot be read (No such file or directory); mend its path or permissions"
    )


def test_what_is_no_certificate_is_named(authority: Authority) -> None:
    files = authority.write(b"-----BEGIN CERTIFICATE-----\nx", authority.issue()[1])
    with pytest.raises(TlsError) as caught:
        ServerTls(*files).credentials("127.0.0.1")
    assert in_one_line(caught).startswith(f"{files[0]}: holds no PEM certificate")


def test_what_is_no_key_is_named(authority: Authority) -> None:
    files = authority.write(authority.issue()[0], b"-----BEGIN PRIVATE KEY-----\nx")
    with pytest.raises(TlsError) as caught:
        ServerTls(*files).credentials("127.0.0.1")
    assert in_one_line(caught).startswith(f"{files[1]}: holds no PEM private key")


def test_a_key_with_a_passphrase_is_refused(authority: Authority) -> None:
    files = authority.write(*authority.issue(passphrase=b"canary"))
    with pytest.raises(TlsError) as caught:
        ServerTls(*files).credentials("127.0.0.1")
    assert in_one_line(caught).startswith(f"{files[1]}: is locked with a passphrase")


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    files = authority.write(authority.issue()[0], authority.issue()[1])
    with pytest.raises(TlsError) as caught:
        ServerTls(*files).credentials("127.0.0.1")
    assert in_one_line(caught).startswith(f"{files[1]}: is not the key of {files[0]}")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_used_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TlsError) as caught:
        channel_credentials(TlsSettings(ca_file=file), "localhost:1")
    assert in_one_line(caught).startswith(f"{file}: ")


async def test_a_server_that_may_not_use_plaintext_does_not_start(open_stand: Any) -> None:
    with pytest.raises(PlaintextRefused):
        async with open_stand(tls=ServerTls()):
            pass
    with pytest.raises(PlaintextRefused):
        async with open_stand(tls=ServerTls(plaintext=True), host="0.0.0.0"):
            pass


async def test_calls_go_on_while_certificates_change_and_change(secure: Stand, authority: Authority) -> None:
    done = asyncio.Event()
    codes: list[grpc.StatusCode] = []

    async def call_on_new_connections() -> None:
        while not done.is_set():
            async with trusting(secure, authority) as channel:
                call = probe_call(channel)
                codes.append(await call.code())

    calling = asyncio.create_task(call_on_new_connections())
    for round_ in range(1, 21):
        authority.write(*authority.issue(f"certificate {round_}"))
        await reached(lambda: len(codes), round_)
    done.set()
    await calling
    assert set(codes) == {grpc.StatusCode.OK}
