"""The warning about RPCs with `online: true` if an issuer is never asked."""

# <part admin/>

from __future__ import annotations

import json

from tests.support.gatehouse_process import ISSUER, run_gatehouse

WARNING = "online access rules need introspection"


def issuers(*modes: str) -> str:
    """Return the setting for an issuer in each mode."""
    client = {"client_id": "api", "client_secret": "canary"}
    return json.dumps([ISSUER | client | {"issuer": f"https://{m}.test", "mode": m} for m in modes])


async def test_online_rule_and_an_issuer_in_mode_jwt_make_a_warning_at_start() -> None:
    setting = issuers("introspection", "jwt", "hybrid")
    async with run_gatehouse("serve", "admin", GATEHOUSE_ISSUERS=setting) as admin:
        await admin.until("listening")
        (warning,) = [line for line in admin.lines if line["event"] == WARNING]

    assert warning["methods"] == ["gatehouse.admin.v1.AdminService/ManageRoles"]
    assert warning["issuers"] == ["https://jwt.test"]


async def test_issuers_that_are_asked_make_no_warning() -> None:
    setting = issuers("introspection", "hybrid")
    async with run_gatehouse("serve", "admin", GATEHOUSE_ISSUERS=setting) as admin:
        await admin.until("listening")

    assert WARNING not in [line["event"] for line in admin.lines]
