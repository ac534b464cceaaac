"""The calls of Keycloak's admin API with which the tour rotates keys; the development issuer has them too."""

from __future__ import annotations

import time
from typing import Any

import httpx

from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError

# Longer than any token that a key of a tour may have signed is valid.
KEEP_SECONDS = 900
_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
# The priority of a tour's key is its time of creation, so the newest one signs. Other keys have small ones.
_SMALLEST_TIME = 1_000_000_000


class IssuerAdmin:
    """Manages the signing keys of a realm.

    Args:
        http: HTTP client.
        profile: Has the address of the issuer and the password of its administrator.
    """

    def __init__(self, http: httpx.AsyncClient, profile: Profile) -> None:
        self._http = http
        self._profile = profile
        # The issuer may be reached at another address than the one in its tokens.
        self._base, _, rest = (profile.discovery_url or profile.issuer).partition("/realms/")
        self._components = f"{self._base}/admin/realms/{rest.partition('/')[0]}/components"

    async def seconds_since_rotation(self) -> float | None:
        """Return how long ago a tour last rotated the keys, None if never.

        Raises:
            TestbedError: The issuer refuses or does not respond.
        """
        created = await self._tour_keys()
        return time.time() - max(created.values()) if created else None

    async def rotate(self) -> None:
        """Add a key that signs from now on. Older keys still verify; those of tours long ago are deleted.

        Raises:
            TestbedError: The issuer refuses or does not respond.
        """
        now = int(time.time())
        config = {
            "priority": [str(now)],
            "enabled": ["true"],
            "active": ["true"],
            "ecdsaEllipticCurveKey": ["P-256"],
        }
        key = {"name": f"tour-{now}", "providerId": "ecdsa-generated", "providerType": _KEY_PROVIDER}
        await self._request("POST", self._components, json=key | {"config": config})
        for component_id, created in (await self._tour_keys()).items():
            if now - created > KEEP_SECONDS:
                await self._request("DELETE", f"{self._components}/{component_id}")

    async def _tour_keys(self) -> dict[str, int]:
        """Return the time of creation of each key that a tour has added, by component id."""
        answer = await self._request("GET", self._components, params={"type": _KEY_PROVIDER})
        try:
            # A key provider may have no priority.
            found = {str(c["id"]): int(c["config"].get("priority", ["0"])[0]) for c in answer.json()}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._error(error) from None
        return {component: created for component, created in found.items() if created > _SMALLEST_TIME}

    async def _request(self, method: str, url: str, **more: Any) -> httpx.Response:
        password = self._profile.issuer_admin_password
        login = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": self._profile.issuer_admin_user,
            "password": password.get_secret_value() if password is not None else "",
        }
        try:
            token = await self._http.post(
                f"{self._base}/realms/master/protocol/openid-connect/token", data=login
            )
            token.raise_for_status()
            headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
            answer = await self._http.request(method, url, headers=headers, **more)
            answer.raise_for_status()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise self._error(error) from None
        return answer

    def _error(self, error: Exception) -> TestbedError:
        return TestbedError(
            f"{self._base}: the admin API failed ({type(error).__name__}); check `issuer_admin_user` and "
            "`issuer_admin_password` in the profile"
        )
