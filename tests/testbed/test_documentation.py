"""The code in docs/testing-with-gatehouse.md runs; tests/docs compares what it quotes from the examples."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import grpc
import httpx
import pytest

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed, run_testbed
from gatehouse_testbed.bed.tokens import NAMED_TOKENS

PAGE = (Path(__file__).resolve().parents[2] / "docs/testing-with-gatehouse.md").read_text()


def code(begins: str, language: str = "python") -> str:
    """Return the code block of the page that begins like this."""
    (block,) = re.findall(rf"^```{language}\n({re.escape(begins)}.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


def run(begins: str, **names: Any) -> dict[str, Any]:
    """Run a code block with these names; return all names."""
    exec(code(begins), names)
    return names


def test_every_python_block_is_run_or_quoted() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    begins = sorted(block.partition("\n")[0] for block in blocks)
    assert begins == sorted(
        [
            "def test_client_retries_while_the_service_is_unavailable(gatehouse, connect) -> None:",
            # <part chaos>
            "def test_write_whose_response_is_lost_is_not_tried_again(gatehouse, gateway, connect) -> None:",
            # </part chaos>
            '@pytest.fixture(scope="session")',
            'gatehouse.token(client="gatehouse-worker")  # a service account',
            '@pytest.mark.parametrize("name", NAMED_TOKENS)  # from gatehouse_testbed.bed.tokens',
            'short = gatehouse.token("bob", lifetime_seconds=2)',
            "page = browser.get(login_url)  # to which your program has redirected the browser",
            "gatehouse.faults.add(",
        ]
    )


def test_tokens_and_faults(gatehouse: Testbed) -> None:
    run("gatehouse.token(client=", gatehouse=gatehouse)
    assert run("short = gatehouse.token", gatehouse=gatehouse)["short"]
    run("gatehouse.faults.add(", gatehouse=gatehouse)
    assert len(gatehouse.faults.list()) == 1


def test_table_of_named_tokens(gatehouse: Testbed) -> None:
    credentials = grpc.ssl_channel_credentials(gatehouse.ca_file.read_bytes())
    with grpc.secure_channel(gatehouse.targets["users"], credentials) as channel:
        stub: Any = users_pb2_grpc.UserServiceStub(channel)

        def my_server_accepts(token: str) -> bool:
            metadata = [("authorization", f"Bearer {token}")]
            try:
                stub.GetCurrentUser(users_pb2.GetCurrentUserRequest(), metadata=metadata, timeout=20)
            except grpc.RpcError:
                return False
            return True

        names = run(
            '@pytest.mark.parametrize("name", NAMED_TOKENS)',
            pytest=pytest,
            NAMED_TOKENS=NAMED_TOKENS,
            my_server_accepts=my_server_accepts,
        )
        for name in NAMED_TOKENS:
            names["test_server_refuses_bad_tokens"](gatehouse, name)


def test_login_page(gatehouse_issuer: Testbed) -> None:
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    request = {
        "response_type": "code",
        "client_id": "gatehouse-console",
        "redirect_uri": "http://127.0.0.1:4711/callback",
        "scope": "openid",
        "state": "some-state",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    base = f"{gatehouse_issuer.issuer}/protocol/openid-connect"
    with httpx.Client(trust_env=False) as browser:
        names: dict[str, Any] = {"browser": browser, "login_url": f"{base}/auth?{urlencode(request)}"}
        names |= {"gatehouse_issuer": gatehouse_issuer, "re": re, "html": html}
        callback = urlsplit(run("page = browser.get", **names)["callback"])
        answer = parse_qs(callback.query)
        assert (callback.netloc, answer["state"]) == ("127.0.0.1:4711", ["some-state"])
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"][0],
            "client_id": "gatehouse-console",
            "redirect_uri": request["redirect_uri"],
            "code_verifier": verifier,
        }
        gatehouse_issuer.faults.add("issuer/token", status=503, times=1)
        assert browser.post(f"{base}/token", data=form).status_code == 503
        gatehouse_issuer.clock.advance(minutes=2)
        assert browser.post(f"{base}/token", data=form).json()["error"] == "invalid_grant"
    assert [request.endpoint for request in gatehouse_issuer.issuer_requests()] == [
        *("authorization", "login", "token", "token"),
    ]


def test_fixture_with_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is the fixture; here it runs as a context manager."""
    realm = Path(__file__).resolve().parents[2] / "keycloak/gatehouse-realm.json"
    (tmp_path / "my-realm.json").write_text(realm.read_text())
    monkeypatch.chdir(tmp_path)
    names = run("@pytest.fixture(", pytest=pytest, run_testbed=run_testbed)
    generator = names["gatehouse_issuer_session"].__wrapped__()
    assert next(generator).token("alice")
    generator.close()


def test_commands_for_any_language(gatehouse: Testbed) -> None:
    for line in code("curl -s $control_url/tokens", "sh").splitlines():
        words = shlex.split(line.replace("$control_url", gatehouse.control_url))
        (url,) = (word for word in words if word.startswith("http"))
        options = dict(itertools.pairwise(words))
        method = options.get("-X", "POST" if "-d" in options else "GET")
        headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
        with httpx.Client(trust_env=False) as http:
            assert http.request(method, url, content=options.get("-d"), headers=headers).is_success, line
