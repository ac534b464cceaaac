"""The refresh of a login: rotation, sharing between callers and processes, and what a store may do wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatehouse.client import (
    FileStore,
    Login,
    LoginRequired,
    LoginStore,
    MemoryStore,
    OAuthClient,
    Refresh,
    TokenFileError,
    TokenManager,
    TokenResponse,
)
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from tests.support.eventually import eventually
from tests.support.issuer import LiveIssuer
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import LoopbackIssuer

CONSOLE = "gatehouse-console"
FIRST = TokenResponse("access-0", "Bearer", 300.0, refresh_token="refresh-0")
OLD = TokenResponse("old", "Bearer", 1.0, refresh_token="refresh-0")
PROCESS = """
import asyncio, pathlib, sys
import httpx
from gatehouse.client import FileStore, OAuthClient, Refresh

async def main(issuer, path):
    async with httpx.AsyncClient(trust_env=False) as http:
        client = OAuthClient(http, "gatehouse-console", issuer=issuer)
        refresh = Refresh(client, FileStore(pathlib.Path(path)))
        await refresh.request()
        print("ready", flush=True)
        for _ in range(8):
            await refresh.request()
        print((await refresh.request()).access_token)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "new" / "login.json")


async def logged_in(issuer: LiveIssuer, store: LoginStore) -> Refresh:
    """Return the refresh of a login of alice."""
    body = (await issuer.user_answer()).json()
    refresh = Refresh(OAuthClient(issuer.http, CONSOLE, issuer=issuer.issuer), store)
    await refresh.remember(
        TokenResponse(body["access_token"], "Bearer", 300.0, refresh_token=body["refresh_token"])
    )
    return refresh


async def is_active(issuer: LiveIssuer, token: str) -> bool:
    return bool((await issuer.introspect(token))["active"])


def rotating(idp: LoopbackIssuer) -> None:
    """Answer with access-1 and refresh-1, then 2, ..., and refuse each refresh token but the latest."""
    current = 0

    def reply(request: Request) -> Reply:
        nonlocal current
        assert request.form["client_id"] == CONSOLE
        if request.form["refresh_token"] != f"refresh-{current}":
            return Reply({"error": "invalid_grant"}, 400)
        current += 1
        body = {"access_token": f"access-{current}", "refresh_token": f"refresh-{current}"}
        return Reply(body | {"token_type": "Bearer", "expires_in": 300})

    idp.answer("token", reply)


def refresh_at(http: httpx.AsyncClient, idp: LoopbackIssuer, store: LoginStore, **more: Any) -> Refresh:
    return Refresh(OAuthClient(http, CONSOLE, token_endpoint=idp.url("token")), store, **more)


async def test_rotating_refresh_token_keeps_the_session_alive(issuer: LiveIssuer, store: FileStore) -> None:
    refresh = await logged_in(issuer, store)
    tokens = {(await refresh.request()).access_token for _ in range(4)}
    assert len(tokens) == 4
    assert all([await is_active(issuer, token) for token in tokens])


async def test_concurrent_managers_of_one_store_send_one_request(
    http: httpx.AsyncClient, idp: LoopbackIssuer, store: FileStore
) -> None:
    rotating(idp)
    await refresh_at(http, idp, store).remember(OLD)
    managers = [TokenManager(refresh_at(http, idp, store)) for _ in range(8)]
    tokens = await asyncio.gather(*(manager.token() for manager in managers for _ in range(8)))
    assert set(tokens) == {"access-1"}
    assert idp.request_count("token") == 1


async def test_rejected_token_is_refreshed_by_the_first_of_the_managers(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    rotating(idp)
    store = MemoryStore()
    await refresh_at(http, idp, store).remember(FIRST)
    managers = [TokenManager(refresh_at(http, idp, store)) for _ in range(3)]
    assert {await manager.token() for manager in managers} == {"access-0"}
    for manager in managers:
        manager.invalidate("access-0")
    assert {await manager.token() for manager in managers} == {"access-1"}


async def test_two_processes_share_a_login(issuer: LiveIssuer, store: FileStore, tmp_path: Path) -> None:
    """The issuer ends the session if a refresh token is used twice."""
    refresh = await logged_in(issuer, store)
    arguments = ("-c", PROCESS, issuer.issuer, str(tmp_path / "new" / "login.json"))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    output = asyncio.create_task(process.communicate())
    while not output.done():
        latest = (await refresh.request()).access_token
    assert process.returncode == 0
    assert await is_active(issuer, (await output)[0].decode().strip())
    assert await is_active(issuer, latest)
    assert await is_active(issuer, (await refresh.request()).access_token)


async def test_ended_login_is_deleted_and_a_new_one_is_used_at_once(issuer: LiveIssuer) -> None:
    store = MemoryStore()
    first = await logged_in(issuer, store)
    manager = TokenManager(first)
    login = store.load()
    assert login is not None
    store.save(Login(login.refresh_token, "ended", 0.0))
    await issuer.http.post(
        issuer.url("logout"), data={"client_id": CONSOLE, "refresh_token": login.refresh_token}
    )
    with pytest.raises(LoginRequired) as caught:
        await manager.token()
    assert (caught.value.error, store.load()) == ("invalid_grant", None)
    with pytest.raises(LoginRequired, match="no login"):
        await manager.token()
    await logged_in(issuer, store)
    assert await is_active(issuer, await manager.token())


async def test_closing_during_a_refresh_does_not_lose_the_new_refresh_token(
    http: httpx.AsyncClient, idp: LoopbackIssuer, store: FileStore
) -> None:
    rotating(idp)
    refresh = refresh_at(http, idp, store)
    await refresh.remember(OLD)
    manager = TokenManager(refresh)
    idp.hold("token")
    waiting = asyncio.create_task(manager.token())
    await eventually(lambda: idp.request_count("token") == 1)
    closing = asyncio.create_task(manager.aclose())
    await asyncio.sleep(0)
    idp.release("token")
    await closing
    with pytest.raises(IssuerUnavailable, match="closing"):
        await waiting
    login = store.load()
    assert login is not None
    assert login.refresh_token == "refresh-1"


class FullDisk(MemoryStore):
    """Refuses to save while it is full."""

    full = False

    def save(self, login: Login | None) -> None:
        if self.full:
            raise TokenFileError(Path("login.json"), "No space left on device")
        super().save(login)


async def test_refresh_token_that_cannot_be_saved_is_saved_later(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    rotating(idp)
    store = FullDisk()
    refresh = refresh_at(http, idp, store)
    await refresh.remember(OLD)
    store.full = True
    manager = TokenManager(refresh)
    for _ in range(3):
        with pytest.raises(TokenFileError, match="No space left"):
            await manager.token()
    store.full = False
    assert await manager.token() == "access-1"
    assert (await refresh.request()).access_token == "access-2"
    assert idp.request_count("token") == 2


@pytest.mark.parametrize("status", [429, 503, 401])
async def test_login_is_kept_while_the_issuer_fails(
    status: int, http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    store = MemoryStore()
    refresh = refresh_at(http, idp, store)
    await refresh.remember(OLD)
    idp.answer("token", Reply({"error": "invalid_client"}, status))
    with pytest.raises(TokenRequestFailed if status == 401 else IssuerUnavailable):
        await refresh.request()
    rotating(idp)
    assert (await refresh.request()).access_token == "access-1"


async def test_refresh_token_that_does_not_rotate_is_kept(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    idp.answer("token", Reply({"access_token": "access", "token_type": "Bearer", "expires_in": 10}))
    refresh = refresh_at(http, idp, MemoryStore(), scope="read:users")
    await refresh.remember(FIRST)
    for _ in range(2):
        await refresh.request()
        assert idp.last("token").form == {
            "grant_type": "refresh_token",
            "refresh_token": "refresh-0",
            "client_id": CONSOLE,
            "scope": "read:users",
        }


async def test_login_without_a_refresh_token_is_not_stored(
    http: httpx.AsyncClient, idp: LoopbackIssuer
) -> None:
    with pytest.raises(TokenRequestFailed, match="no_refresh_token"):
        await refresh_at(http, idp, MemoryStore()).remember(TokenResponse("access", "Bearer", 300.0))


# The file.


async def test_file_is_private_and_keeps_its_link(tmp_path: Path, store: FileStore) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "new" / "login.json")
    async with FileStore(link).locked():
        FileStore(link).save(Login("refresh", "access", 1.5, "a b"))
    assert link.is_symlink()
    assert store.load() == Login("refresh", "access", 1.5, "a b")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["login.json", "login.json.lock"]
    assert "refresh'" not in repr(store.load())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_file_that_others_can_access_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "login.json"
    store = FileStore(path)
    store.save(Login("refresh", "access", 1.5))
    path.chmod(mode)
    with pytest.raises(TokenFileError, match=r"login\.json: other users can access it; run chmod 600"):
        store.load()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b"canary", b'{"refresh_token": "canary", "access_token": 1}']
)
def test_damaged_file_is_named_without_its_content(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "login.json"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(TokenFileError, match=r"login\.json: contains no login; delete it") as caught:
        FileStore(path).load()
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None


async def test_unusable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FileStore(tmp_path / "file" / "login.json")
    with pytest.raises(TokenFileError, match="file"):
        async with store.locked():
            pass
    with pytest.raises(TokenFileError, match="Not a directory"):
        store.save(Login("refresh", "access", 1.5))
    with pytest.raises(TokenFileError, match="Not a directory"):
        store.load()
