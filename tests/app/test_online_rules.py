"""The warning about RPCs with `online: true` if an issuer is never asked."""

# <part admin/>

from __future__ import annotations

import json

import pytest

from tests.support.gatehouse_process import ISSUER, run_gatehouse

WARNING = "online access rules need introspection"


async def test_online_rule_and_an_issuer_in_mode_jwt_make_a_warning_at_start() -> None:
    async with run_gatehouse("serve", "admin") as admin:
        await admin.until("listening")
        (warning,) = [line for line in admin.lines if line["event"] == WARNING]

    assert warning["methods"] == ["gatehouse.admin.v1.AdminService/ManageRoles"]
    assert warning["issuers"] == ["https://issuer.test"]


@pytest.mark.parametrize("mode", ["introspection", "hybrid"])
async def test_issuer_that_is_asked_makes_no_warning(mode: str) -> None:
    issuer = ISSUER | {"mode": mode, "client_id": "api", "client_secret": "canary"}
    async with run_gatehouse("serve", "admin", GATEHOUSE_ISSUERS=json.dumps([issuer])) as admin:
        await admin.until("listening")

    assert WARNING not in [line["event"] for line in admin.lines]
