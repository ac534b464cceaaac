"""A small directory to look at: the users of the realm, and others, of which some are suspended."""

from __future__ import annotations

import asyncio
import time

import grpc

from gatehouse.client.calls import Outcome
from gatehouse.client.issuer import open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from gatehouse.settings import environment
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.files import realm_file
from gatehouse_testbed.issuer import load_realm
from gatehouse_testbed.tour.callers import CLIENTS, USERS, TourTokens
from gatehouse_testbed.tour.services import open_services

PATIENCE_SECONDS = 120.0
_ACTIVE = ("Erin", "Faythe", "Frank", "Grace", "Heidi", "Ivan", "Judy", "Michael", "Niaj", "Olivia", "Oscar")
_SUSPENDED = ("Craig", "Mallory", "Trudy")


async def seed_directory(profile: Profile) -> int:
    """Create the users that do not exist, and return how many were created.

    On a slow machine, the first calls may take longer than their timeouts, so all is tried again for a while.

    Raises:
        TestbedError: A call fails, or the issuer refuses or is unavailable.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await _seed(profile)
        except (IssuerUnavailable, TokenRequestFailed, TestbedError) as error:
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"the directory cannot be filled: {error}; see the log of the issuer"
                ) from None
        await asyncio.sleep(1)


async def _seed(profile: Profile) -> int:
    realm = load_realm(realm_file(), environment())
    async with open_issuer_client(profile) as issuer, open_services(profile) as services:
        tokens = TourTokens(issuer, profile, realm)
        # The first call of a user creates their own entry.
        for name in USERS:
            token = await tokens.of_user(name)
            _check(await services.call("users", "GetCurrentUser", token=token))
        worker = await tokens.of_client(CLIENTS[0])

        async def create(name: str, state: str) -> bool:
            user = {"email": f"{name.lower()}@example.test", "display_name": name, "state": state}
            outcome = await services.call("users", "CreateUser", [{"user": user}], token=worker)
            if outcome.code is not grpc.StatusCode.ALREADY_EXISTS:
                _check(outcome)
            return outcome.code is grpc.StatusCode.OK

        created = await asyncio.gather(
            *(create(name, "USER_STATE_ACTIVE") for name in _ACTIVE),
            *(create(name, "USER_STATE_SUSPENDED") for name in _SUSPENDED),
        )
        return sum(created)


def _check(outcome: Outcome) -> None:
    if outcome.code is not grpc.StatusCode.OK:
        raise TestbedError(f"{outcome.code.name}: {outcome.message}")
