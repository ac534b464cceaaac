"""Rotation of the signing key over the admin API, as the tour does it."""

from __future__ import annotations

import time

import pytest
from pydantic import SecretStr

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer_admin import KEEP_SECONDS, IssuerAdmin
from gatehouse_testbed.tour.steps.rotation import COOLDOWN_SECONDS, remaining_cooldown
from tests.support.issuer import ADMIN_PASSWORD, LiveIssuer


def admin_of(issuer: LiveIssuer, password: str = ADMIN_PASSWORD) -> IssuerAdmin:
    profile = Profile(issuer=issuer.issuer, issuer_admin_password=SecretStr(password))
    return IssuerAdmin(issuer.http, profile)


async def test_rotation_changes_the_key_and_is_visible_to_the_next_tour(issuer: LiveIssuer) -> None:
    admin = admin_of(issuer)
    before = await issuer.service_token()
    assert await admin.seconds_since_rotation() is None
    await admin.rotate()
    since = await admin.seconds_since_rotation()
    assert since is not None
    assert 0 <= since < 60
    after = await issuer.service_token()
    assert before.split(".")[0] != after.split(".")[0]
    assert (await issuer.introspect(before))["active"] is True


async def test_rotation_deletes_the_keys_of_tours_long_ago(issuer: LiveIssuer) -> None:
    admin = admin_of(issuer)
    await admin.rotate()
    since = await admin.seconds_since_rotation() or 0.0
    await issuer.rotate(priority=int(time.time()) - KEEP_SECONDS - 60)
    keys = f"{issuer.issuer}/protocol/openid-connect/certs"
    count = len((await issuer.http.get(keys)).json()["keys"])
    await admin.rotate()
    assert len((await issuer.http.get(keys)).json()["keys"]) == count
    assert (await admin.seconds_since_rotation() or 0.0) <= since + 60


async def test_wrong_password_of_the_administrator_is_an_error_of_one_line(issuer: LiveIssuer) -> None:
    with pytest.raises(TestbedError, match="the admin API failed"):
        await admin_of(issuer, "wrong").rotate()


def test_tour_waits_only_after_a_recent_rotation() -> None:
    assert remaining_cooldown(None) == 0
    assert remaining_cooldown(COOLDOWN_SECONDS + 1) == 0
    assert remaining_cooldown(10.0) == COOLDOWN_SECONDS - 10
