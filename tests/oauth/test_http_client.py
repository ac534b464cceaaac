"""HTTP clients for issuers: stale connections, authorities that change, and proxies."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracer

from gatehouse.oauth import HttpFailure, IssuerUnavailable, discover, open_http, send_bounded
from gatehouse.oauth.http_client import _shared_authorities
from gatehouse.runtime.http_clients import HttpClients
from gatehouse.settings import ConfigurationError, OAuthClientSettings
from tests.support.certificates import Authority
from tests.support.http_proxy import loopback_proxy
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, config
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime, loopback_issuer

# Reserved by RFC 6761, so it has no address.
HOST = "issuer.invalid"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_on_a_connection_that_the_server_closed_is_sent_again_on_a_new_one(
    method: str, idp: LoopbackIssuer
) -> None:
    idp.answers_per_connection = 1
    idp.answer("anything", lambda request: Reply(request.content))
    async with open_http() as http:
        for number in range(5):
            request = http.build_request(method, idp.url("anything"), content=b"%d" % number)
            _, body = await send_bounded(http, request)
            assert body == b"%d" % number
    assert idp.request_count("anything") == 5


async def test_request_on_a_new_connection_is_not_sent_again(idp: LoopbackIssuer) -> None:
    idp.answer("anything", Reply(hang_up=True))
    async with open_http() as http:
        for number in (1, 2):
            with pytest.raises(HttpFailure) as caught:
                await send_bounded(http, http.build_request("GET", idp.url("anything")))
            assert caught.value.reason == "unreachable"
            assert idp.request_count("anything") == number


async def test_introspections_survive_an_issuer_that_closes_kept_alive_connections(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    async with open_http() as http:
        verifier = await make_verifier(config(idp, "introspection"), http=http)
        idp.answers_per_connection = 1
        for number in range(10):
            idp.activate(f"token-{number}")
            assert await verifier.verify(f"token-{number}")


async def test_clients_load_the_same_authorities_once(authority: Authority, tmp_path: Path) -> None:
    ca_file, new = tmp_path / "trusted.pem", tmp_path / "new.pem"
    for file in (ca_file, new):
        file.write_bytes(authority.ca_file.read_bytes())
    _shared_authorities.cache_clear()
    for _ in range(3):
        await open_http(ca_file).aclose()
    assert _shared_authorities.cache_info().misses == 1
    new.replace(ca_file)
    await open_http(ca_file).aclose()
    assert _shared_authorities.cache_info().misses == 2


async def test_authorities_are_reloaded_when_their_file_changes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    old, new = Authority(tmp_path / "a", "old"), Authority(tmp_path / "b", "new")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(old.ca_file.read_bytes())
    async with (
        loopback_issuer(tls=old.server_context()) as issuer,
        open_http(ca_file, reload_seconds=0) as http,
    ):
        assert await discover(http, issuer.issuer)
        await issuer.stop()
        issuer.tls = new.server_context()
        await issuer.start()
        with pytest.raises(IssuerUnavailable, match="discovery_unreachable") as caught:
            await discover(http, issuer.issuer)
        assert "certificate not accepted" in caught.value.detail

        ca_file.write_bytes(b"half-written")
        with pytest.raises(IssuerUnavailable):
            await discover(http, issuer.issuer)
        ca_file.write_bytes(new.ca_file.read_bytes())
        assert await discover(http, issuer.issuer)
        # The old authority is no longer trusted.
        await issuer.stop()
        issuer.tls = old.server_context()
        await issuer.start()
        with pytest.raises(IssuerUnavailable):
            await discover(http, issuer.issuer)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unusable_ca_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"ca\.pem: not usable as a CA file"):
        open_http(ca_file)


@pytest.mark.parametrize("credentials", ["", "user:p%40ss"])
async def test_issuer_behind_a_proxy_is_verified_and_supplies_tokens(
    credentials: str, authority: Authority, make_verifier: MakeVerifier, manual_time: ManualTime
) -> None:
    async with AsyncExitStack() as stack:
        context = authority.server_context(HOST)
        issuer = await stack.enter_async_context(loopback_issuer(manual_time.clock, context))
        issuer.host = HOST
        proxy = await stack.enter_async_context(loopback_proxy(issuer.port, credentials.replace("%40", "@")))
        address = f"http://{credentials}{'@' if credentials else ''}127.0.0.1:{proxy.port}"
        accepted = config(issuer, "hybrid", ca_file=authority.ca_file, proxy=address)
        http_for = HttpClients([accepted], NoOpTracer(), 5.0, stack)
        verifier = await make_verifier(accepted, http=http_for(accepted))
        assert await verifier.verify(issuer.grant())
        assert set(proxy.targets) == {f"{HOST}:{issuer.port}"}
        # A client of a service uses the proxy of the accepted issuer.
        client = http_for(OAuthClientSettings(client_id="worker", client_secret="canary"))
        assert await discover(client, issuer.issuer)
        assert client is http_for(accepted)


async def test_plain_http_goes_through_the_proxy_too(idp: LoopbackIssuer) -> None:
    async with loopback_proxy(idp.port) as proxy, open_http(proxy=f"http://127.0.0.1:{proxy.port}") as http:
        assert await discover(http, idp.issuer)
        assert proxy.targets == [f"{idp.issuer}/{METADATA}"]


async def test_proxy_that_refuses_is_reported_without_its_text(authority: Authority) -> None:
    async with (
        loopback_issuer(tls=authority.server_context()) as issuer,
        loopback_proxy(issuer.port, "user:password") as proxy,
        open_http(authority.ca_file, f"http://user:canary@127.0.0.1:{proxy.port}") as http,
    ):
        with pytest.raises(IssuerUnavailable, match="discovery_unreachable") as caught:
            await discover(http, issuer.issuer)
    assert caught.value.detail == f"{issuer.url(METADATA)}: the proxy responded 407"


async def test_proxy_of_the_environment_is_not_used(
    idp: LoopbackIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with open_http() as http:
        assert await discover(http, idp.issuer)


async def test_text_of_a_server_is_not_in_the_detail(idp: LoopbackIssuer) -> None:
    idp.answer("anything", Reply(raw=b"canary\r\n\r\n"))
    async with open_http() as http:
        with pytest.raises(HttpFailure) as caught:
            await send_bounded(http, http.build_request("GET", f"{idp.url('anything')}?canary=1"))
    where = idp.url("anything")
    assert caught.value.detail == f"{where}: the connection was closed, or the response is not HTTP"


async def test_unknown_host_is_named_as_such() -> None:
    async with open_http() as http:
        request = http.build_request("GET", "https://issuer.invalid/")
        try:
            await send_bounded(http, request)
        except HttpFailure as error:
            failure = error
    assert failure.detail in {
        "https://issuer.invalid/: unknown host",
        "https://issuer.invalid/: no response in time",  # the resolver is slow
    }
