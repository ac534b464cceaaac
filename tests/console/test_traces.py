"""The pages of traces."""

from __future__ import annotations

from gatehouse_console.traces.calls import MAX_CALLS, CallLog, TracedCall
from tests.console.browser import Browser

USERS = "/call/gatehouse.users.v1.UserService"


def some_call(number: int = 1, **more: object) -> TracedCall:
    values = {"rpc": "p.S/M", "code": "OK", "seconds": 0.1, "ended_at": 0.0} | more
    return TracedCall(trace_id=f"{number:032x}", **values)


async def test_calls_of_the_session_are_listed_and_not_those_of_others(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/traces")
    assert "None yet." in page.text
    form = await on_system.get(f"{USERS}/DeleteUser")
    await on_system.submit(form, f"{USERS}/DeleteUser", data="{}", seconds="10")
    page = await on_system.get("/traces")
    assert "gatehouse.users.v1.UserService/DeleteUser" in page.text
    assert "PERMISSION_DENIED" in page.text
    await on_system.get("/")  # makes the access matrix
    assert "AdminService/GetStats" in (await on_system.get("/traces")).text
    again = await on_system.get("/sign-in?return_to=/traces")  # a new session; the issuer remembers the user
    assert "None yet." in again.text


def test_calls_of_a_session_are_bounded() -> None:
    log, session = CallLog(), type("Session", (), {"id": "s"})()
    for number in range(MAX_CALLS + 2):
        log.add(session, some_call(number))
    log.add(session, TracedCall("p.S/M", "OK", 0.1, 0.0, ""))
    assert [call.trace_id for call in log.of(session)] == [
        f"{number:032x}" for number in range(MAX_CALLS + 1, 1, -1)
    ]
