"""The pages that call an RPC."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shlex
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from gatehouse.app.policy import policy_rows
from gatehouse.client.calls import Outcome
from gatehouse.client.profile import Profile
from gatehouse_console.calls.result import result_of
from gatehouse_console.calls.run import Call, Run
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.console.conftest import open_console
from tests.support.child_coverage import measured

USERS = "/call/gatehouse.users.v1.UserService"


async def call(browser: Browser, method: str, changes: dict[str, str]) -> httpx.Response:
    """Call an RPC with its form, and return the page after it."""
    path = f"{USERS}/{method}"
    return await browser.fill(await browser.get(path), path, changes)


def words(page: httpx.Response, program: str) -> list[str]:
    """Return the words of a command of a page, as a shell reads them."""
    found = re.search(rf'<pre id="command-{program}"[^>]*>(.*?)</pre>', page.text, re.DOTALL)
    assert found is not None, page.text
    return shlex.split(html.unescape(found[1]))


def error_at(page: httpx.Response, name: str) -> str | None:
    """Return what a page says is wrong at an input."""
    identifier = re.sub(r"\W", "-", name)
    found = re.search(rf'<p id="{identifier}-error" class="problem">(.*?)</p>', page.text)
    return html.unescape(found[1]) if found else None


async def test_every_rpc_has_a_page_with_its_fields(on_system: Browser) -> None:
    index = await on_system.sign_in("bob", return_to="/call")
    for row in policy_rows():
        assert f'href="/call/{row.name}"' in index.text
        assert (await on_system.get(f"/call/{row.name}")).status_code == 200
    page = html.unescape((await on_system.get(f"{USERS}/CreateUser")).text)
    for part in (
        'name="request[0].user.email"',
        "USER_STATE_SUSPENDED",
        "at most 254 characters",
        " required",
    ):
        assert part in page


async def test_unary_call_shows_response_metadata_timing_and_trace(
    on_system: Browser, gatehouse: Testbed
) -> None:
    await on_system.sign_in("bob", return_to="/call")
    fields = {"request[0].page_size": "1", "metadata": "X-Request-Id: of-this-test\r\n\r\nx-blob-bin: AAE="}
    page = await call(on_system, "ListUsers", fields)
    text = html.unescape(page.text)
    for part in (">OK</code>", '"display_name"', " ms, 1 response"):
        assert part in text
    (seen,) = gatehouse.calls("ListUsers")
    assert f'href="/traces/{seen.trace_id}"' in page.text
    assert (seen.request_id, seen.metadata["x-blob-bin"]) == ("of-this-test", ["AAE="])
    # Opened again, it does not call again.
    assert (await on_system.get(str(page.url))).text == page.text
    assert len(gatehouse.calls("ListUsers")) == 1
    index = await on_system.get("/call")
    assert f'<a href="{page.url.path}#result">ListUsers</a>' in index.text


async def test_html_in_fields_and_responses_is_text(on_system: Browser) -> None:
    await on_system.sign_in("alice", return_to="/call")
    name = "<script>alert(1)</script>é"
    fields = {"request[0].user.email": "a@example.test", "request[0].user.display_name": name}
    page = await call(on_system, "CreateUser", fields)
    assert ">OK</code>" in page.text
    assert "<script>alert" not in page.text
    assert html.escape(f'"display_name": "{name}"') in page.text.replace("&#34;", "&quot;")


async def test_violations_are_shown_beside_their_fields(on_system: Browser) -> None:
    await on_system.sign_in("alice", return_to="/call")
    page = await call(on_system, "GetUser", {"request[0].user_id": "x"})
    assert ">INVALID_ARGUMENT</code>" in page.text
    assert error_at(page, "request[0].user_id") == "must be a valid UUID"
    assert 'aria-describedby="request-0--user_id-hint request-0--user_id-error"' in page.text
    assert "google.rpc.BadRequest" in page.text
    page = await call(on_system, "CreateUser", {"request[0].user.email": "nobody"})
    assert error_at(page, "request[0].user.email") == "must be a valid email address"
    assert error_at(page, "request[0].user") == "display_name is required"
    assert 'value="nobody"' in page.text


async def test_stream_of_requests_is_a_list_and_its_invalid_request_is_named(on_system: Browser) -> None:
    await on_system.sign_in("alice", return_to="/call")
    path = f"{USERS}/ImportUsers"
    page = await on_system.get(path)
    page = await on_system.fill(page, path, {"request[0].row_number": "1", "edit": "add:request[1]"})
    assert 'name="request[1].row_number" value="" spellcheck="false"' in page.text
    page = await on_system.fill(page, path, {"request[1].row_number": "-2"})
    assert ">INVALID_ARGUMENT</code>" in page.text
    assert error_at(page, "request[1].row_number") == "must be greater than 0"
    assert error_at(page, "request[0].row_number") is None
    page = await on_system.fill(page, path, {"request[1].row_number": "2"})
    assert ">OK</code>" in page.text
    assert "&#34;failed_count&#34;: &#34;2&#34;" in page.text


async def test_denied_call_shows_its_challenge(on_system: Browser) -> None:
    await on_system.sign_in("bob", return_to="/call")
    page = await call(on_system, "DeleteUser", {})
    for part in (
        ">PERMISSION_DENIED</code>",
        "The call needs all of: admin, delete:users.",
        "google.rpc.ErrorInfo",
    ):
        assert part in page.text


async def test_what_is_typed_is_carried_over_between_form_and_json(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    path = f"{USERS}/UpdateUser"
    page = await browser.fill(await browser.get(path), path, {"edit": "add:request[0].update_mask"})
    assert re.search(r'name="request\[0\].update_mask"[^>]* autofocus', page.text)
    fields = {
        "request[0].user.display_name": " a  b ",
        "request[0].update_mask": "display_name",
        "seconds": "7.5",
    }
    page = await browser.fill(page, path, fields | {"do": "json", "metadata": "a: b"})
    area = re.search(r"<textarea id=\"data\"[^>]*>\n(.*?)</textarea>", page.text, re.DOTALL)
    assert area is not None
    sent = {"user": {"display_name": " a  b "}, "update_mask": "displayName"}
    assert json.loads(html.unescape(area[1])) == sent
    page = await browser.fill(page, path, {"do": "form"})
    for part in ('value=" a  b "', 'value="display_name"', 'value="7.5"', ">\na: b</textarea>"):
        assert part in page.text


@pytest.mark.parametrize(
    "data", ["{", '{"other": 1}', "", "[1]", "[]", "[" * 2000, "<script>", '{"\\ud800": 1}']
)
async def test_malformed_request_is_explained_and_kept(browser: Browser, data: str) -> None:
    await browser.sign_in(return_to="/call")
    page = await browser.get(f"{USERS}/GetUser")
    for action in ("call", "form"):
        answer = await browser.submit(page, f"{USERS}/GetUser", data=data, seconds="1", do=action)
        assert (answer.status_code, 'role="alert"' in answer.text) == (200, True)
        assert f">\n{data}</textarea>" in html.unescape(answer.text)
        assert "<script>" not in answer.text


@pytest.mark.parametrize(
    ("changes", "name", "problem"),
    [
        ({"metadata": "no colon"}, "metadata", "metadata: not an entry"),
        ({"metadata": "Authorization: x"}, "metadata", "metadata authorization: reserved"),
        ({"metadata": "grpc-timeout: 1S"}, "metadata", "metadata grpc-timeout: reserved by gRPC"),
        ({"metadata": "a: é"}, "metadata", "metadata a: not printable ASCII"),
        ({"metadata": "a-bin: é"}, "metadata", "metadata a-bin: not base64"),
        ({"seconds": "0"}, "seconds", "deadline: not a number of seconds up to 600"),
        ({"seconds": "nan"}, "seconds", "deadline: not"),
        ({"seconds": "601"}, "seconds", "deadline: not"),
        ({"seconds": "soon"}, "seconds", "deadline: not"),
    ],
)
async def test_invalid_metadata_and_deadlines_are_explained(
    browser: Browser, changes: dict[str, str], name: str, problem: str
) -> None:
    await browser.sign_in(return_to="/call")
    page = await call(browser, "CountUsers", changes)
    assert page.url.path == f"{USERS}/CountUsers"
    assert f'<p id="{name}-problem" class="problem" role="alert">{problem}' in page.text
    assert html.escape(changes[name]) in page.text


async def test_text_that_is_not_of_its_type_is_not_sent(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    page = await call(browser, "ListUsers", {"request[0].page_size": "many"})
    assert error_at(page, "request[0].page_size") == "not of type int32"
    assert 'value="many"' in page.text
    assert "some fields are invalid" in page.text


async def test_service_that_is_down_is_shown_as_such(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    page = await call(browser, "CountUsers", {"seconds": "5"})
    assert ">UNAVAILABLE</code>" in page.text
    assert page.status_code == 200


async def test_ca_file_that_is_missing_is_named(
    stack: AsyncExitStack, profile: Profile, gatehouse: Testbed, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(gatehouse.ca_file.read_bytes())
    secure = profile.model_copy(update={"plaintext": False, "ca_file": ca_file})
    browser = (await open_console(stack, secure))()
    await browser.sign_in(return_to="/call")
    ca_file.unlink()
    page = await call(browser, "CountUsers", {})
    assert ">UNAVAILABLE</code>" in page.text
    assert str(ca_file) in page.text.partition("terminal")[0]


async def test_command_of_the_page_makes_the_same_call(
    on_system: Browser, gatehouse: Testbed, tmp_path: Path
) -> None:
    await on_system.sign_in("bob", return_to="/call")
    fields = {
        "request[0].filter": 'display_name = "it\'s; $HOME"',
        "request[0].page_size": "1",
        "seconds": "9",
    }
    page = await call(on_system, "ListUsers", fields | {"metadata": "x-request-id: same", "do": "commands"})
    assert gatehouse.calls("ListUsers") == []
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "issuer": gatehouse.issuer,
                "targets": dict(gatehouse.targets),
                "ca_file": str(gatehouse.ca_file),
                "passwords": dict(gatehouse.passwords),
            }
        )
    )
    _, *arguments = words(page, "gatehouse")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse", *arguments),
        env=measured({"GATEHOUSE_PROFILE": str(profile)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors
    (seen,) = gatehouse.calls("ListUsers")
    assert (seen.request_id, seen.caller) == ("same", "bob")


async def test_command_for_grpcurl_has_token_metadata_deadline_and_requests(on_system: Browser) -> None:
    await on_system.sign_in("bob", return_to="/call")
    fields = {
        "request[0].user_id": "'; rm -rf / #",
        "edit": "add:request[1]",
        "metadata": "a: b c",
        "seconds": "9",
    }
    page = await call(on_system, "LookupUsers", fields)
    program, *found = words(page, "grpcurl")
    assert program == "grpcurl"
    assert found[:2] == ["-H", "authorization: Bearer $TOKEN"]
    assert found[2] == "-cacert"
    assert found[4:9] == ["-H", "a: b c", "-max-time", "9", "-d"]
    assert found[9] == '{"user_id": "\'; rm -rf / #"} {}'
    assert found[11] == "gatehouse.users.v1.UserService/LookupUsers"


async def test_commands_name_plaintext_and_authority_and_need_json(
    stack: AsyncExitStack, profile: Profile
) -> None:
    public = {"public_targets": {"users": "localhost:50051"}, "public_ca_file": Path("local/ca.crt")}
    named = profile.model_copy(update={"server_name": "users.example.com", **public})
    browser = (await open_console(stack, named))()
    await browser.sign_in(return_to="/call")
    page = await call(browser, "CountUsers", {"do": "commands"})
    assert words(page, "grpcurl")[3:6] == ["-plaintext", "-cacert", "local/ca.crt"]
    assert words(page, "grpcurl")[6:8] == ["-authority", "users.example.com"]
    assert words(page, "grpcurl")[-2] == "localhost:50051"
    assert "--as" not in words(page, "gatehouse")
    page = await browser.submit(page, f"{USERS}/CountUsers", data="{", do="commands")
    assert "The request is not JSON." in page.text


async def test_unknown_rpc_and_unknown_call_are_explained(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    page = await browser.get("/call/a.B/C")
    assert (page.status_code, "No such RPC" in page.text) == (404, True)
    for path in ("/calls/x", "/calls/x/events"):
        page = await browser.get(path)
        assert (page.status_code, "No such call" in page.text) == (404, True)


def test_details_of_unknown_types_and_binary_metadata_are_shown_in_base64() -> None:
    run = Run(Call(policy_rows()[0], [], (), 1.0, {}), "session")
    assert result_of(run) is None
    details = (
        AnyMessage(type_url="x/no.such.Type", value=b"\1"),
        AnyMessage(type_url="x/google.rpc.ErrorInfo", value=b"\xff"),
    )
    trailers = (("grpc-status-details-bin", b"x"), ("a-bin", b"\0"), ("b", "c"))
    run.end(Outcome(grpc.StatusCode.NOT_FOUND, details=details, trailers=trailers))
    result = result_of(run)
    assert result is not None
    assert list(result.details) == [
        ("no.such.Type", "base64: AQ=="),
        ("google.rpc.ErrorInfo", "base64: /w=="),
    ]
    assert list(result.trailers) == [("a-bin", "base64: AA=="), ("b", "c")]
