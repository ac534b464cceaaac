"""What the log of a server says about a database that it cannot use."""

from __future__ import annotations

from tests.support.gatehouse_process import run_gatehouse


async def test_log_has_what_the_server_reported_and_no_password() -> None:
    url = "postgresql://nobody:canary-61f@127.0.0.1:1/nothing"
    async with run_gatehouse("serve", "users", GATEHOUSE_USERS__DATABASE_URL=url) as process:
        (line,) = await process.until("database not ready")
    assert line["reason"] == "DATABASE_UNAVAILABLE"
    assert "Connection refused" in line["detail"]
    assert line["hint"] == "run `gatehouse doctor users`"
    assert "canary" not in str(process.lines)
